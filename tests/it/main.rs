//! Black-box tests: real servers, real sockets. A missing server is a failure, never a skip.

mod harness;
mod jose;
mod limiter;
mod store;
