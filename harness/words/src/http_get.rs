//! One HTTP request from outside the nodes: from the machine that runs the harness, over a connection of its own, so that
//! load balancing decides anew each time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest answer that is read, bytes.
const LONGEST: u64 = 256 * 1024;

/// What came back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    /// Status code; zero where none came.
    pub code: u16,
    /// The answer's headers, names in lower case.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
    /// Why none came.
    pub error: Option<String>,
    /// Our own port.
    pub from_port: u16,
}

/// Asks `http://ADDRESS PATH`. A refusal or a silence is an answer of code zero.
pub async fn get(address: SocketAddr, path: &str, budget: Duration) -> Got {
    get_with(address, path, &[], budget).await
}

/// The same with headers of the request.
pub async fn get_with(address: SocketAddr, path: &str, headers: &[(&str, &str)], budget: Duration) -> Got {
    match tokio::time::timeout(budget, ask(address, path, headers)).await {
        Ok(Ok(got)) => got,
        Ok(Err(e)) => Got { error: Some(e.to_string()), ..Got::default() },
        Err(_) => Got { error: Some(format!("no answer within {budget:?}")), ..Got::default() },
    }
}

async fn ask(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> std::io::Result<Got> {
    let mut stream = TcpStream::connect(address).await?;
    let from_port = stream.local_addr()?.port();
    let own: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n{own}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = vec![];
    stream.take(LONGEST).read_to_end(&mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let code =
        code.ok_or_else(|| std::io::Error::other(format!("not HTTP: {}", head.chars().take(80).collect::<String>())))?;
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let headers = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Ok(Got { code, headers, body: body.to_owned(), error: None, from_port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 256];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(answer).await;
        });
        address
    }

    #[tokio::test]
    async fn an_answer_is_read_whole() {
        let got = get(server(b"HTTP/1.0 200 OK\r\nA: b\r\n\r\nhello").await, "/", Duration::from_secs(5)).await;
        assert_eq!((got.code, got.body.as_str(), got.error), (200, "hello", None));
        assert_ne!(got.from_port, 0);
        assert_eq!(got.headers["a"], "b");
    }

    #[tokio::test]
    async fn what_is_no_answer_has_code_zero() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert_eq!(get(nobody, "/", Duration::from_secs(5)).await.code, 0);
        let strange = get(server(b"SSH-2.0-x\r\n").await, "/", Duration::from_secs(5)).await;
        assert!(strange.error.unwrap().contains("not HTTP"));
    }
}
