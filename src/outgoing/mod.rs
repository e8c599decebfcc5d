//! The gateway's own requests to others, such as webhooks: one HTTP/1.1 exchange over a connection
//! of its own. Whom it calls, operators have written into the configuration; nothing that a client,
//! a token or an answer says leads anywhere, so redirects are not followed, and neither proxies nor
//! cookies are known. `dial` and `tls` make the connections, also those of mail; [`signature`]
//! proves to the other side who asks.
//!
//! Invariant: every exchange ends at its deadline, whatever the other side does, and keeps no more
//! of an answer than it was allowed.

pub(crate) mod dial;
mod endpoint;
pub mod signature;
pub(crate) mod tls;

#[cfg(test)]
pub(crate) mod tests;

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

pub use self::endpoint::{Endpoint, EndpointError, Peer};
pub use self::tls::TlsError;

/// Longest head of an answer, in bytes.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// How we name ourselves.
const PRODUCT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

/// Makes requests. Holds no connections.
#[derive(Clone)]
pub struct Client {
    tls: Arc<ClientConfig>,
}

/// How far an exchange may go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// From looking up the name to the last byte of the answer.
    pub deadline: Duration,
    /// Longest body of an answer, in bytes.
    pub max_bytes: usize,
}

/// What came back, whatever its status; redirects too.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}

/// Why there is no answer. None of them says what was asked for or with which secret.
#[derive(Debug, thiserror::Error)]
pub enum OutgoingError {
    /// No connection could be made: the name, the address, or the certificate.
    #[error("no connection could be made")]
    Connect(#[source] io::Error),
    /// It took longer than allowed.
    #[error("there was no answer within {0:?}")]
    Deadline(Duration),
    /// The answer is longer than allowed.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// The other side broke off, or speaks something else than HTTP/1.1.
    #[error("the exchange broke off")]
    Broken(#[source] hyper::Error),
}

impl Client {
    /// A client that believes the authorities in the PEM file `ca` only, or else the system's.
    ///
    /// # Errors
    /// There are none, or the file cannot be used.
    pub fn new(ca: Option<&Path>) -> Result<Self, TlsError> {
        let mut config = tls::client_config(ca)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(config) })
    }

    /// Asks `endpoint` once.
    ///
    /// # Errors
    /// See [`OutgoingError`]. An answer with a bad status is an answer.
    pub async fn send(
        &self,
        endpoint: &Endpoint,
        method: Method,
        headers: HeaderMap,
        body: Bytes,
        bounds: Bounds,
    ) -> Result<Answer, OutgoingError> {
        let until = Instant::now() + bounds.deadline;
        let exchange = async {
            let stream = dial::connect(endpoint.peer(), endpoint.reach(), until)
                .await
                .map_err(OutgoingError::Connect)?;
            let request = request(endpoint, method, headers, body);
            let Some(name) = endpoint.server_name() else {
                return exchange(stream, request, bounds.max_bytes).await;
            };
            let stream = TlsConnector::from(Arc::clone(&self.tls))
                .connect(name, stream)
                .await
                .map_err(OutgoingError::Connect)?;
            exchange(stream, request, bounds.max_bytes).await
        };
        let in_time = tokio::time::timeout(bounds.deadline, exchange).await;
        in_time.unwrap_or(Err(OutgoingError::Deadline(bounds.deadline)))
    }
}

fn request(
    endpoint: &Endpoint,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = endpoint.target().clone().into();
    *request.headers_mut() = headers;
    let headers = request.headers_mut();
    headers.insert(HOST, endpoint.host_header().clone());
    headers.insert(USER_AGENT, HeaderValue::from_static(PRODUCT));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    request
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    max_bytes: usize,
) -> Result<Answer, OutgoingError> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(OutgoingError::Broken)?;
    // Owns the task that moves the bytes: when this exchange ends, however it does, that ends too.
    let mut moving = JoinSet::new();
    moving.spawn(connection);
    let answer = sender.send_request(request).await.map_err(OutgoingError::Broken)?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, max_bytes).collect().await;
    let body = body.map_err(|error| failure_of_body(error, max_bytes))?.to_bytes();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

fn failure_of_body(error: Box<dyn Error + Send + Sync>, max_bytes: usize) -> OutgoingError {
    if error.is::<LengthLimitError>() {
        return OutgoingError::TooLong(max_bytes);
    }
    match error.downcast::<hyper::Error>() {
        Ok(error) => OutgoingError::Broken(*error),
        Err(error) => OutgoingError::Connect(io::Error::other(error)),
    }
}
