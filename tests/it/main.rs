//! Black-box tests: real servers, real sockets. A missing server is a failure, never a skip.

mod harness;

mod admin;
mod framing;
mod headers;
mod jose;
mod lifecycle;
mod limiter;
mod paths;
mod proxy;
mod store;
mod timeouts;
mod tls;
mod tokens;
