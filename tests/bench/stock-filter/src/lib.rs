//! A Proxy-Wasm filter that does nothing, written as the SDK's examples are: every callback is the SDK's default, and
//! the module exports all of them. It is what a filter costs before it does anything. Empty but for wasm32.

#![cfg(target_arch = "wasm32")]
#![allow(missing_docs, reason = "the SDK's macro exports a function without any")]

use proxy_wasm::{
    traits::{Context, HttpContext, RootContext},
    types::ContextType,
};

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream))
    }
}

struct Stream;

impl Context for Stream {}

impl HttpContext for Stream {}
