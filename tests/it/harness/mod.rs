//! What the tests stand on: a gateway, an upstream, a client and a token maker for each test, and
//! real servers for all of them.

pub(crate) mod auth;
pub(crate) mod client;
pub(crate) mod foreign;
pub(crate) mod gateway;
pub(crate) mod h2raw;
pub(crate) mod h2upstream;
pub(crate) mod hpack;
pub(crate) mod http;
pub(crate) mod jwks;
pub(crate) mod postgres;
pub(crate) mod program;
pub(crate) mod redis;
pub(crate) mod script;
pub(crate) mod tls;
pub(crate) mod token;
pub(crate) mod upstream;
pub(crate) mod watchdog;

pub(crate) use auth::{events_of, expect_no_gaps, noted, open_store, pause, until_events};
pub(crate) use client::{Answer, Client, End, Request, Transcript, patiently};
pub(crate) use gateway::{Builder, Caller, PASSWORD, TestGateway, blocking};
pub(crate) use http::lossy;
pub(crate) use jwks::{IssuerKey, KeyServer, json_answer};
pub(crate) use program::{Program, Running, Told};
pub(crate) use script::Script;
pub(crate) use tls::{Authority, Secure, Visitor};
pub(crate) use token::Issuer;
pub(crate) use upstream::{Gate, Seen, Step, Upstream, reply, write};
