;; The least that a filter which counts requests can be: the four callbacks that it needs, written by hand, and what the
;; ABI asks for. What it costs is the price of entering V8 four times per request.
(module
  (memory (export "memory") 1)
  (global $in_flight (mut i32) (i32.const 0))

  (func (export "proxy_abi_version_0_2_1"))
  ;; Nothing is ever asked of the host that it would need memory for.
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (i32.const 0))

  (func (export "proxy_on_context_create") (param $context i32) (param $root i32))
  ;; 0: go on.
  (func (export "proxy_on_request_headers") (param $context i32) (param $count i32) (param $end i32) (result i32)
    (global.set $in_flight (i32.add (global.get $in_flight) (i32.const 1)))
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param $context i32) (param $count i32) (param $end i32) (result i32)
    (i32.const 0))
  (func (export "proxy_on_delete") (param $context i32)
    (global.set $in_flight (i32.sub (global.get $in_flight) (i32.const 1)))))
