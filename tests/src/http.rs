//! HTTP/1.1, as much as a test asks: one request a connection, the answer read to its end.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use crate::{Context, Failure, Result};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// 200, …
    pub status: u16,
    /// The head's lines.
    pub head: String,
    /// The body.
    pub body: String,
}

const PATIENCE: Duration = Duration::from_secs(20);

/// GET from a port of the loopback in the calling thread's namespace.
pub fn get(port: u16, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
    let what = format!("GET {path} from port {port}");
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).could_not(|| &what)?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .could_not(|| &what)?;
    exchange(stream, "GET", path, headers, "").could_not(|| &what)
}

/// A request over a unix socket.
pub fn over_unix(
    socket: &Path,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Response> {
    let what = format!("{method} {path} over {}", socket.display());
    let stream = UnixStream::connect(socket).could_not(|| &what)?;
    stream
        .set_read_timeout(Some(PATIENCE))
        .could_not(|| &what)?;
    exchange(stream, method, path, headers, body).could_not(|| &what)
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Response> {
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        request += "Content-Type: application/json\r\n";
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    stream
        .write_all(request.as_bytes())
        .could_not(|| "send the request")?;
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .could_not(|| "read the answer")?;
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(answer: &str) -> Result<Response> {
    let bad = || Failure::new(format!("this is no HTTP answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|s| s.parse().ok())
        .ok_or_else(bad)?;
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        dechunk(body).ok_or_else(bad)?
    } else {
        body.to_owned()
    };
    Ok(Response {
        status,
        head: head.to_owned(),
        body,
    })
}

fn dechunk(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, more) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body += more.get(..size)?;
        rest = more.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_answer_is_put_together() {
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                      4\r\nabcd\r\n2;x=y\r\nef\r\n0\r\n\r\n";
        let response = parse(answer).map(|response| (response.status, response.body));
        assert_eq!(response, Ok((200, "abcdef".to_owned())));
    }

    #[test]
    fn what_is_not_http_is_refused() {
        assert!(parse("SSH-2.0").is_err());
        assert!(parse("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nshort").is_err());
    }
}
