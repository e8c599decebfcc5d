//! Black-box tests: real servers, real sockets. A missing server is a failure, never a skip.

mod harness;

mod accounts;
mod admin;
mod cli;
mod cors;
mod crash;
mod events;
mod framing;
mod handover;
mod hardening;
mod headers;
mod jose;
mod lifecycle;
mod limiter;
mod listeners;
mod openapi;
mod outages;
mod paths;
mod proxy;
mod proxy_protocol;
mod races;
mod refresh;
mod reload;
mod store;
mod timeouts;
mod tls;
mod tls_server;
mod tokens;
mod tunnels;
mod two_gateways;
