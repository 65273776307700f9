//! The `ebb` program: everything is in the library, so that tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ebb::cli::main()
}
