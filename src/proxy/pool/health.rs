//! Active checks: asks every server again and again whether it is well, beside the requests and on
//! the control runtime. Check connections are new ones and take no place among the limited ones: a
//! server that is full must not look dead.

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::dial::dial;
use super::standing::Health;
use super::state::ServerState;
use super::stream::Stream;
use crate::config::{HealthCheck, Protocol};

/// `HTTP/1.1 200`.
const STATUS_BYTES: usize = 12;

/// Checks every server for as long as it is polled.
pub(super) async fn check_all(
    servers: Vec<Arc<ServerState>>,
    check: HealthCheck,
    protocol: Protocol,
) {
    let check = &check;
    let checking = servers.into_iter().map(|server| async move {
        let mut row = Row::default();
        loop {
            let began = Instant::now();
            let fault = run(&server, check, protocol).await.err();
            if let Some(verdict) = row.note(fault.is_none(), check.healthy, check.unhealthy) {
                tell(&server, verdict, fault.as_deref());
            }
            *server.health_fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
            tokio::time::sleep(check.interval.0.saturating_sub(began.elapsed())).await;
        }
    });
    futures_util::future::join_all(checking).await;
}

fn tell(server: &ServerState, verdict: Health, fault: Option<&str>) {
    let before = server.standing.health();
    server.standing.set_health(verdict, server.epoch.at(Instant::now()));
    match (before, verdict) {
        (Health::Down, Health::Up) => {
            tracing::info!(server = %server.authority, "an upstream server is well again");
        }
        (_, Health::Down) => {
            tracing::warn!(server = %server.authority, fault, "an upstream server is not well");
        }
        _ => {}
    }
}

/// Checks in a row with the same outcome.
#[derive(Default)]
struct Row {
    good: bool,
    length: u32,
    verdict: Option<Health>,
}

impl Row {
    /// Notes an outcome; gives a verdict when it changes. The very first good check is enough: a
    /// start need not wait for more.
    fn note(&mut self, good: bool, healthy: u32, unhealthy: u32) -> Option<Health> {
        self.length = if good == self.good { self.length.saturating_add(1) } else { 1 };
        self.good = good;
        let needed = match (good, self.verdict) {
            (true, None) => 1,
            (true, Some(_)) => healthy,
            (false, _) => unhealthy,
        };
        let verdict = if good { Health::Up } else { Health::Down };
        if self.length < needed || self.verdict == Some(verdict) {
            return None;
        }
        self.verdict = Some(verdict);
        self.verdict
    }
}

/// One check. The error says for people what was wrong.
async fn run(server: &ServerState, check: &HealthCheck, protocol: Protocol) -> Result<(), String> {
    let patience: Duration = check.timeout.0;
    let status = timeout(patience, async {
        let stream =
            dial(server, None, patience).await.map_err(|error| crate::telemetry::chain(&error))?;
        let asked = match protocol {
            Protocol::Http1 => ask_http1(server, stream, &check.path).await,
            Protocol::H2 | Protocol::H2c => ask_h2(server, stream, &check.path).await,
        };
        asked.map_err(|error| error.to_string())
    });
    match status.await {
        Ok(Ok(status)) if check.status.contains(&status) => Ok(()),
        Ok(Ok(status)) => Err(format!("it answered {status}")),
        Ok(Err(fault)) => Err(fault),
        Err(_) => Err("it did not answer in time".to_owned()),
    }
}

async fn ask_http1(server: &ServerState, mut stream: Stream, path: &str) -> io::Result<u16> {
    let host = String::from_utf8_lossy(server.host.as_bytes());
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: portcullis-health-check\r\n\
         accept: */*\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut start = [0; STATUS_BYTES];
    stream.read_exact(&mut start).await?;
    let status = (start.strip_prefix(b"HTTP/1.1 "))
        .or_else(|| start.strip_prefix(b"HTTP/1.0 "))
        .and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
    status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP/1"))
}

async fn ask_h2(server: &ServerState, stream: Stream, path: &str) -> io::Result<u16> {
    let broken = |error: h2::Error| io::Error::other(error);
    let (send, connection) = h2::client::handshake(stream).await.map_err(broken)?;
    let scheme = if server.tls.is_some() { "https" } else { "http" };
    let authority = String::from_utf8_lossy(server.host.as_bytes());
    let request = Request::get(format!("{scheme}://{authority}{path}"))
        .version(Version::HTTP_2)
        .header("user-agent", "portcullis-health-check")
        .body(())
        .map_err(io::Error::other)?;
    let exchange = async {
        let mut send: h2::client::SendRequest<Bytes> = send.ready().await.map_err(broken)?;
        let (answer, _) = send.send_request(request, true).map_err(broken)?;
        Ok(answer.await.map_err(broken)?.status().as_u16())
    };
    tokio::select! {
        answered = exchange => answered,
        ended = connection => {
            ended.map_err(broken)?;
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_change_after_so_many_checks_in_a_row() {
        let mut row = Row::default();
        let verdicts: Vec<_> = "gbbgbbbbgbgggbbb"
            .chars()
            .map(|outcome| match row.note(outcome == 'g', 2, 3) {
                Some(Health::Up) => 'U',
                Some(_) => 'D',
                None => '.',
            })
            .collect();
        assert_eq!(verdicts.iter().collect::<String>(), "U.....D....U...D");
    }

    #[test]
    fn a_server_that_is_never_well_is_down_after_the_usual_number() {
        let mut row = Row::default();
        let verdicts: Vec<_> = (0..4).map(|_| row.note(false, 2, 3)).collect();
        assert_eq!(verdicts, [None, None, Some(Health::Down), None]);
    }
}
