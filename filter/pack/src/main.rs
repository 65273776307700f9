//! `ebb-filter-pack IN OUT`: packs the filter's module. See the library for what that means.

use std::{env, fs, process::ExitCode};

use anyhow::{Context, Result, bail};

fn run() -> Result<()> {
    let args: Vec<_> = env::args_os().skip(1).collect();
    let [input, output] = args.as_slice() else {
        bail!("usage: ebb-filter-pack IN OUT");
    };
    let wasm = fs::read(input).with_context(|| format!("cannot read {}", input.display()))?;
    let packed = ebb_filter_pack::pack(&wasm).with_context(|| format!("cannot pack {}", input.display()))?;
    fs::write(output, packed).with_context(|| format!("cannot write {}", output.display()))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ebb-filter-pack: {error:#}");
            ExitCode::FAILURE
        }
    }
}
