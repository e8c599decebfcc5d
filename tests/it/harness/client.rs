//! A client that says exactly what a test tells it to, and reads answers strictly.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpStream;

use super::http::{Broken, Framing, Head, Headers, Wire, lossy};

/// Longest wait for anything. Only a failing test waits so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Waits for `step`, but not forever.
pub(crate) async fn patiently<T>(what: &str, step: impl Future<Output = T>) -> T {
    let waited = tokio::time::timeout(PATIENCE, step).await;
    waited.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As its head said it would.
    Complete,
    /// With the connection, as a head without a length says.
    Closed,
    /// Before its time: the client can tell that something is missing.
    Cut,
}

/// One answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// `200`, ...
    pub(crate) status: u16,
    /// The fields.
    pub(crate) headers: Headers,
    /// The body, or what came of it.
    pub(crate) body: Vec<u8>,
    /// Statuses of the 1xx answers before it.
    pub(crate) interim: Vec<u16>,
    /// Trailer fields of a chunked body.
    pub(crate) trailers: Headers,
    /// How it ended.
    pub(crate) end: End,
}

impl Answer {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        lossy(&self.body)
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {:?}", self.status, self.text()))
    }

    /// The value of a field that stands at most once.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The `code` of a refusal; empty when it is none of ours.
    pub(crate) fn code(&self) -> String {
        let problem: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        problem["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Checks that this is the refusal `status`, `code`, with all that a problem document of ours
    /// has (RFC 9457), and gives it back.
    #[track_caller]
    pub(crate) fn expect_problem(&self, status: u16, code: &str) -> Value {
        let told = format!("{} {:?}", self.status, self.text());
        assert_eq!((self.status, &*self.code()), (status, code), "{told}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{told}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{told}");
        assert_eq!(problem["error_code"], problem["code"], "{told}");
        assert_eq!(problem["msg"], problem["detail"], "{told}");
        for key in ["type", "title", "detail"] {
            assert!(problem[key].as_str().is_some_and(|text| !text.is_empty()), "{key}: {told}");
        }
        let instance = problem["instance"].as_str().expect("an instance");
        let request_id = self.header("x-request-id").expect("a request id");
        assert_eq!(instance, format!("urn:uuid:{request_id}"), "{told}");
        problem
    }

    /// Checks the status and gives the answer back.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{:?} {:?}", self.headers, self.text());
        self
    }
}

/// One connection to the gateway.
pub(crate) struct Client {
    /// The connection.
    pub(crate) wire: Wire,
    framing: Option<Framing>,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = patiently("a connection", TcpStream::connect(address)).await;
        let stream = stream.expect("the gateway accepts connections");
        stream.set_nodelay(true).expect("a socket option");
        Self::over(Wire::new(stream))
    }

    /// Goes on with a connection.
    pub(crate) fn over(wire: Wire) -> Self {
        Self { wire, framing: None }
    }

    /// Connects, unless nobody listens.
    pub(crate) async fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = patiently("a connection", TcpStream::connect(address)).await.ok()?;
        Some(Self { wire: Wire::new(stream), framing: None })
    }

    /// Sends bytes. A gateway that has closed meanwhile is no error here: its answer is what counts.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = patiently("room to send", self.wire.write(bytes.as_ref())).await;
    }

    /// The answer to a request that was no `HEAD`.
    pub(crate) async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    /// The answer to a request with this method.
    pub(crate) async fn answer_to(&mut self, method: &str) -> Answer {
        self.try_answer(method).await.expect("an answer before the connection closes")
    }

    /// The answer, or `None` when the connection ends without a byte of one.
    pub(crate) async fn try_answer(&mut self, method: &str) -> Option<Answer> {
        let mut answer = self.try_head(method).await?;
        while self.piece(&mut answer).await.is_some() {}
        Some(answer)
    }

    /// The head of an answer; its body then comes by [`Client::piece`].
    pub(crate) async fn head(&mut self, method: &str) -> Answer {
        self.try_head(method).await.expect("an answer before the connection closes")
    }

    async fn try_head(&mut self, method: &str) -> Option<Answer> {
        let mut interim = Vec::new();
        loop {
            let head = match patiently("an answer's head", self.wire.head()).await {
                Ok(head) => head?,
                Err(Broken::Cut) => return None,
                Err(Broken::Syntax(error)) => panic!("malformed answer: {error}"),
            };
            let answer = self.begin(&head, method, &interim);
            if (100..200).contains(&answer.status) && answer.status != 101 {
                interim.push(answer.status);
                continue;
            }
            return Some(answer);
        }
    }

    fn begin(&mut self, head: &Head, method: &str, interim: &[u16]) -> Answer {
        let [version, status, _] = head.parts().expect("a status line");
        let status: u16 = status.parse().expect("a status");
        assert!(matches!(version, "HTTP/1.1" | "HTTP/1.0"), "{version}");
        let framing = head.framing().expect("an unambiguous length");
        let bodiless = method == "HEAD" || status < 200 || matches!(status, 204 | 304);
        self.framing = (!bodiless).then(|| framing.unwrap_or(Framing::UntilClose));
        let until_close = self.framing == Some(Framing::UntilClose);
        Answer {
            status,
            headers: head.headers.clone(),
            body: Vec::new(),
            interim: interim.to_vec(),
            trailers: Headers::default(),
            end: if until_close { End::Closed } else { End::Complete },
        }
    }

    /// The next piece of an answer's body, which is added to `answer` too; `None` at its end.
    pub(crate) async fn piece(&mut self, answer: &mut Answer) -> Option<Vec<u8>> {
        let framing = self.framing.as_mut()?;
        let piece = self.wire.piece(framing, &mut answer.trailers);
        match patiently("a piece of an answer", piece).await {
            Ok(Some(piece)) => {
                answer.body.extend_from_slice(&piece);
                Some(piece)
            }
            Ok(None) => None,
            Err(Broken::Cut) => {
                answer.end = End::Cut;
                None
            }
            Err(Broken::Syntax(error)) => panic!("malformed answer: {error}"),
        }
    }

    /// Waits until the gateway closes the connection; gives the bytes that came before.
    pub(crate) async fn until_closed(&mut self) -> Vec<u8> {
        patiently("the gateway to close the connection", async {
            while matches!(self.wire.fill().await, Ok(true)) {}
        })
        .await;
        self.wire.take_buffered()
    }
}

/// What came back for some bytes.
#[derive(Debug)]
pub(crate) struct Transcript {
    /// Answers in order.
    pub(crate) answers: Vec<Answer>,
    /// Whether the gateway closed the connection after them.
    pub(crate) closed: bool,
}

impl Transcript {
    /// The statuses of the answers.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        self.answers.iter().map(|answer| answer.status).collect()
    }
}

/// How long the gateway may take to close before a connection counts as left open.
const CLOSING: Duration = Duration::from_secs(3);

/// Sends `bytes` on a connection of their own and reads answers until the gateway closes it, or
/// leaves it open and says nothing more.
pub(crate) async fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Transcript {
    let bytes = bytes.as_ref();
    let mut client = Client::connect(address).await;
    client.send(bytes).await;
    let method = lossy(bytes).split(' ').next().unwrap_or_default().to_owned();
    let mut answers = Vec::new();
    loop {
        match tokio::time::timeout(CLOSING, client.try_answer(&method)).await {
            Ok(Some(answer)) => answers.push(answer),
            Ok(None) => return Transcript { answers, closed: true },
            Err(_) => return Transcript { answers, closed: false },
        }
    }
}

/// A request that is written out by itself, on a connection of its own.
pub(crate) struct Request {
    address: SocketAddr,
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    /// A request to the gateway at `address`.
    pub(crate) fn new(address: SocketAddr, method: &str, target: &str) -> Self {
        let fields = vec![("Host".to_owned(), address.to_string())];
        Self { address, method: method.to_owned(), target: target.to_owned(), fields, body: None }
    }

    /// Adds a field; several of one name are sent as several lines.
    pub(crate) fn header(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.fields.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Carries an access token.
    pub(crate) fn bearer(self, token: impl AsRef<str>) -> Self {
        self.header("Authorization", format!("Bearer {}", token.as_ref()))
    }

    /// Has a body, of known length.
    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Has a JSON body.
    pub(crate) fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    /// Has a form for its body.
    pub(crate) fn form(self, parameters: &[(&str, &str)]) -> Self {
        let body =
            form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        self.header("Content-Type", "application/x-www-form-urlencoded").body(body)
    }

    /// The bytes of the request.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.fields {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if let Some(body) = &self.body {
            let _ = write!(head, "Content-Length: {}\r\n", body.len());
        }
        head.push_str("\r\n");
        // One byte for each char, so that tests can send bytes above ASCII.
        let mut bytes: Vec<u8> =
            head.chars().map(|c| u8::try_from(c).expect("heads are written in Latin-1")).collect();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Sends it on a connection of its own and reads the answer.
    pub(crate) async fn send(self) -> Answer {
        let mut client = Client::connect(self.address).await;
        self.send_over(&mut client).await
    }

    /// Sends it on `client`'s connection and reads the answer.
    pub(crate) async fn send_over(self, client: &mut Client) -> Answer {
        client.send(self.to_bytes()).await;
        client.answer_to(&self.method).await
    }
}
