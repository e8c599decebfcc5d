//! `portcullis healthcheck`: asks the running gateway's admin listener, for container probes. Has
//! no dependencies of its own: one request over a plain socket.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::{Context, Failure};

const TIMEOUT: Duration = Duration::from_secs(3);

/// Longest answer that is read.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Ask whether it runs, not whether it is ready
    #[arg(long)]
    live: bool,
}

pub(super) fn run(context: &Context, args: &Args) -> Result<(), Failure> {
    let address = reachable(context.load()?.config.admin.listen);
    let path = if args.live { "/health/live" } else { "/health/ready" };
    let answer = ask(address, path).map_err(|error| {
        Failure::failed(&format!("no answer from http://{address}{path}"), &error)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    println!("{}", body.trim_end());
    if head.split(' ').nth(1) == Some("200") { Ok(()) } else { Err(Failure::no()) }
}

/// An address that stands for all of this machine's is asked on the loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

fn ask(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    Ok(answer)
}
