//! Letters to a mail server (RFC 5321). One connection a letter: a kept one is often dead when it is
//! needed, and finding that out costs more than a new one.
//!
//! TLS is there before anything that matters is said: from the first byte, or by STARTTLS, without
//! which nothing is sent. We do STARTTLS ourselves and look at what was read: an answer that was sent
//! ahead in plain text would be taken for one from inside TLS (as in CVE-2021-38371).
//!
//! What a failure means depends on where it happens. A recipient or a text that is refused with 5xx
//! will be refused again. A login, a sender or a server that is refused is the operator's to mend,
//! and the letter waits.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::commands::{Data, Ehlo, Mail, Rcpt, Starttls};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::Response;
use percent_encoding::percent_decode_str;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

use super::message::Written;
use super::{Receipt, SendError};
use crate::outgoing::Peer;
use crate::outgoing::dial::{self, Reach};

/// Longest answer that is read before TLS.
const MAX_REPLY_BYTES: usize = 16 << 10;

/// How long a server may take to say goodbye to a letter that it has taken.
const FAREWELL: Duration = Duration::from_secs(1);

/// A mail server, and how to reach it.
pub(super) struct Smtp {
    address: Address,
    tls: Arc<ClientConfig>,
    hello: ClientId,
}

/// What the configuration says of a mail server.
pub(super) struct Address {
    peer: Peer,
    security: Security,
    server_name: ServerName<'static>,
    credentials: Option<Credentials>,
}

/// How a connection is kept private.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Security {
    /// TLS from the first byte (RFC 8314 §3.3).
    Implicit,
    /// TLS by STARTTLS (RFC 3207), and no letter without.
    StartTls,
    /// It is not: the server is on this machine.
    None,
}

impl Address {
    /// Reads `smtps://USER:PASSWORD@HOST:PORT` or `smtp://...`, see
    /// [`Mail::url`](crate::config::Mail::url).
    ///
    /// # Errors
    /// Says what is wrong without quoting it: it holds a password.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str =
            "must be smtps://USER:PASSWORD@HOST:PORT or smtp://USER:PASSWORD@HOST:PORT";
        let url = Url::parse(text).map_err(|_| FORM)?;
        let mut security = match url.scheme() {
            "smtps" => Security::Implicit,
            "smtp" => Security::StartTls,
            _ => return Err(FORM.to_owned()),
        };
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(format!("{FORM}, without a path"));
        }
        for (key, value) in url.query_pairs() {
            security = match (&*key, &*value, security) {
                ("tls", "required", security) => security,
                ("tls", "none", Security::StartTls) => Security::None,
                ("tls", "none", _) => return Err("smtps:// is TLS; tls=none is for smtp://".into()),
                ("tls", "opportunistic", _) => {
                    return Err(
                        "tls=opportunistic would send letters in plain text to whoever says \
                                that there is no TLS; use tls=required"
                            .into(),
                    );
                }
                ("tls", ..) => return Err("tls must be `required` or `none`".into()),
                _ => return Err("takes no parameter but tls".into()),
            };
        }
        let port = url.port().unwrap_or(match security {
            Security::Implicit => 465,
            Security::StartTls => 587,
            Security::None => 25,
        });
        let peer =
            Peer::new(url.host_str().unwrap_or_default(), port).map_err(|e| e.to_string())?;
        let credentials = credentials(&url)?;
        if security == Security::None && !peer.is_loopback() {
            return Err("tls=none is for this machine only: 127.0.0.1, [::1], localhost".into());
        }
        if security == Security::None && credentials.is_some() {
            return Err(
                "a password is never sent without TLS; leave tls=none or the password out".into()
            );
        }
        let server_name = peer.server_name().map_err(|error| error.to_string())?;
        Ok(Self { peer, security, server_name, credentials })
    }
}

fn credentials(url: &Url) -> Result<Option<Credentials>, String> {
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8();
        text.map(std::borrow::Cow::into_owned)
            .map_err(|_| "the user or password is no UTF-8".to_owned())
    };
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        ("", Some(_)) | (_, None) => Err("needs both user and password, or none of them".into()),
        (user, Some(password)) => Ok(Some(Credentials::new(decode(user)?, decode(password)?))),
    }
}

impl Smtp {
    /// Talks to `address`; `tls` says whose certificates are believed.
    pub(super) fn new(address: Address, tls: ClientConfig) -> Self {
        Self { address, tls: Arc::new(tls), hello: ClientId::default() }
    }

    /// Sends a letter within `patience`.
    pub(super) async fn send(
        &self,
        letter: &Written,
        patience: Duration,
    ) -> Result<Receipt, SendError> {
        let until = Instant::now() + patience;
        let sending = async {
            let mut connection = self.open(until).await?;
            let taken = hand_over(&mut connection, letter).await?;
            Ok((connection, taken))
        };
        let in_time = tokio::time::timeout(patience, sending).await;
        let (mut connection, taken) = in_time.unwrap_or_else(|_| Err(SendError::late(patience)))?;
        // Not within the time for the letter: it is the server's by now, whatever comes of this.
        let _ = tokio::time::timeout(FAREWELL, connection.quit()).await;
        Ok(Receipt { by: self.to_string(), said: words(&taken) })
    }

    /// A connection on which letters may be handed over.
    async fn open(&self, until: Instant) -> Result<AsyncSmtpConnection, SendError> {
        let Address { peer, security, server_name, credentials } = &self.address;
        let reach = match security {
            Security::Implicit | Security::StartTls => Reach::Anywhere,
            Security::None => Reach::ThisMachine,
        };
        let unreachable = |error| SendError::wait("no connection to the mail server", &error);
        let mut stream = dial::connect(peer, reach, until).await.map_err(unreachable)?;
        let peer_addr = stream.peer_addr().map_err(unreachable)?;
        let greeting: &[u8] = if *security == Security::StartTls {
            start_tls(&mut stream, &self.hello).await?;
            // A server greets once. The library waits for it on every new stream.
            b"220 TLS\r\n"
        } else {
            b""
        };
        let stream = if *security == Security::None {
            Channel::Plain(stream)
        } else {
            let connector = TlsConnector::from(Arc::clone(&self.tls));
            let stream = connector.connect(server_name.clone(), stream).await;
            let stream =
                stream.map_err(|error| SendError::wait("no TLS with the mail server", &error))?;
            Channel::Tls(Box::new(stream))
        };
        let stream = Box::new(Greeted { greeting, stream, peer_addr });
        let mut connection = AsyncSmtpConnection::connect_with_transport(stream, &self.hello)
            .await
            .map_err(|error| refused("the mail server does not serve us", &error))?;
        if let Some(credentials) = credentials {
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            if connection.server_info().get_auth_mechanism(&mechanisms).is_none() {
                let why = "the mail server offers no login with a password";
                return Err(SendError::wait(why, &"it lacks AUTH PLAIN and AUTH LOGIN"));
            }
            let login = connection.auth(&mechanisms, credentials).await;
            login.map_err(|error| refused("the mail server refused the login", &error))?;
        }
        Ok(connection)
    }
}

impl fmt::Display for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let security = match self.address.security {
            Security::Implicit => "TLS",
            Security::StartTls => "STARTTLS",
            Security::None => "no TLS",
        };
        write!(f, "the mail server {} ({security})", self.address.peer)
    }
}

/// Says whom the letter is from and to, and then the letter. Its end is where it changes hands.
async fn hand_over(
    connection: &mut AsyncSmtpConnection,
    letter: &Written,
) -> Result<Response, SendError> {
    let mut parameters = Vec::new();
    let from = letter.envelope.from();
    let addresses = letter.envelope.to().iter().chain(from);
    if !addresses.map(ToString::to_string).all(|address| address.is_ascii()) {
        if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            let why = "the mail server knows no addresses beyond ASCII";
            return Err(SendError::give_up(why, &"it lacks SMTPUTF8"));
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    if !letter.bytes.is_ascii() {
        // Servers that know SMTPUTF8 know this, too (RFC 6531 §3.1).
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    let said = connection.command(Mail::new(from.cloned(), parameters)).await;
    said.map_err(|error| refused("the mail server refused the sender", &error))?;
    for to in letter.envelope.to() {
        let said = connection.command(Rcpt::new(to.clone(), Vec::new())).await;
        said.map_err(|error| judged("the mail server refused the recipient", &error))?;
    }
    let said = connection.command(Data).await;
    said.map_err(|error| judged("the mail server refused the letter", &error))?;
    let said = connection.message(&letter.bytes).await;
    said.map_err(|error| judged("the mail server refused the letter", &error))
}

/// A refusal that is not about the letter.
fn refused(what: &'static str, error: &SmtpError) -> SendError {
    SendError::wait(with_code(what, error), &cause(error))
}

/// A refusal that is about the letter: with 5xx, it is final (RFC 5321 §4.2.1).
fn judged(what: &'static str, error: &SmtpError) -> SendError {
    if error.is_permanent() {
        SendError::give_up(with_code(what, error), &cause(error))
    } else if error.is_transient() {
        SendError::wait(with_code(what, error), &cause(error))
    } else {
        SendError::wait("the connection to the mail server broke off", &cause(error))
    }
}

/// Adds the server's code, which is safe to be shown; its words may quote the address.
fn with_code(what: &str, error: &SmtpError) -> String {
    let Some(code) = error.status() else { return what.to_owned() };
    let said = cause(error);
    // RFC 3463: class, subject, detail.
    let detailed = said.split_ascii_whitespace().next().filter(|word| {
        let parts: Vec<_> = word.split('.').collect();
        parts.len() == 3
            && parts.iter().all(|part| (1..=3).contains(&part.len()) && is_digits(part))
    });
    match detailed {
        Some(detailed) => format!("{what} ({code} {detailed})"),
        None => format!("{what} ({code})"),
    }
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

/// What is under the library's words.
fn cause(error: &SmtpError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn words(response: &Response) -> String {
    let words: Vec<_> = response.message().collect();
    format!("{} {}", response.code(), words.join(" "))
}

/// Greets, and asks for TLS. After the server's word for it nothing more may have come: it would be
/// from whoever sits in between.
async fn start_tls(stream: &mut TcpStream, hello: &ClientId) -> Result<(), SendError> {
    let unserved = "the mail server does not serve us";
    let greeting = reply(stream).await.map_err(|error| SendError::wait(unserved, &error))?;
    if greeting.code != 220 {
        return Err(SendError::wait(format!("{unserved} ({})", greeting.code), &greeting.text()));
    }
    let say = async |stream: &mut TcpStream, command: String| {
        stream.write_all(command.as_bytes()).await?;
        reply(stream).await
    };
    let offered = say(stream, Ehlo::new(hello.clone()).to_string()).await;
    let offered = offered.map_err(|error| SendError::wait(unserved, &error))?;
    let has_tls = offered.lines.iter().any(|line| line.eq_ignore_ascii_case("STARTTLS"));
    let without = "the mail server offers no STARTTLS, and nothing is sent without TLS";
    if offered.code != 250 || !has_tls {
        return Err(SendError::wait(without, &offered.text()));
    }
    let begun = say(stream, Starttls.to_string()).await;
    let begun = begun.map_err(|error| SendError::wait("no TLS with the mail server", &error))?;
    if begun.code == 220 { Ok(()) } else { Err(SendError::wait(without, &begun.text())) }
}

/// An answer before TLS.
struct Reply {
    code: u16,
    /// Without their codes.
    lines: Vec<String>,
}

impl Reply {
    fn text(&self) -> String {
        format!("{} {}", self.code, self.lines.join(" "))
    }
}

/// Reads one answer, which must be all that is there (RFC 5321 §4.2.1, RFC 3207 §6).
async fn reply(stream: &mut TcpStream) -> io::Result<Reply> {
    let mut input = Vec::with_capacity(512);
    loop {
        if let Some((reply, length)) = parse_reply(&input)? {
            if length < input.len() {
                let what = "the mail server speaks out of turn";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            return Ok(reply);
        }
        if input.len() >= MAX_REPLY_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer has no end"));
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// `250-first CRLF 250-second CRLF 250 last CRLF`, and how long it is; none, while it is not whole.
fn parse_reply(input: &[u8]) -> io::Result<Option<(Reply, usize)>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "this is no mail server");
    let (mut lines, mut at) = (Vec::new(), 0);
    while let Some(end) = memchr::memchr(b'\n', &input[at..]) {
        let line = input[at..at + end].trim_ascii_end();
        at += end + 1;
        let (code, rest) = line.split_at_checked(3).ok_or_else(malformed)?;
        let code = std::str::from_utf8(code).ok().filter(|code| is_digits(code));
        let code: u16 = code.and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
        let text = rest.get(1..).unwrap_or_default();
        lines.push(String::from_utf8_lossy(text).into_owned());
        match rest.first() {
            Some(b'-') => {}
            None | Some(b' ') => return Ok(Some((Reply { code, lines }, at))),
            Some(_) => return Err(malformed()),
        }
    }
    Ok(None)
}

/// A connection as the library wants it: with a greeting.
struct Greeted {
    /// What is left of it, when the server's own was before TLS.
    greeting: &'static [u8],
    stream: Channel,
    peer_addr: SocketAddr,
}

enum Channel {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl fmt::Debug for Greeted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Greeted({})", self.peer_addr)
    }
}

impl AsyncTokioStream for Greeted {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer_addr)
    }
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.greeting.is_empty() {
            let (now, later) = self.greeting.split_at(self.greeting.len().min(buffer.remaining()));
            buffer.put_slice(now);
            self.greeting = later;
            return Poll::Ready(Ok(()));
        }
        match &mut self.stream {
            Channel::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Channel::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Channel::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Channel::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Channel::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Channel::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Channel::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Channel::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
