//! Callers that forgive nothing: no request is answered by trying again, and a connection that ends without notice is an
//! error.
//!
//! Ordinary clients hide much of what a server does to its connections: they try again where a pooled one turns out to
//! be dead. Here a connection may end only as its protocol allows: after `Connection: close`, or after GOAWAY. A call
//! that crosses GOAWAY on the wire and is not among those that it says to be processed has not been asked: it is, on
//! the next connection.

use std::collections::VecDeque;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest as Http2;
use http::header::{CONNECTION, HOST};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest as Http1};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

/// HTTP/1.1 over connections that are kept, each used again in its turn.
pub struct KeepAlive {
    address: SocketAddr,
    idle: Mutex<VecDeque<Http1<Full<Bytes>>>>,
}

impl KeepAlive {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            idle: Mutex::default(),
        }
    }

    /// The body of an answer that is 200.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> anyhow::Result<Bytes> {
        let request = self.request(path).body(Full::new(body.into()))?;
        let kept = self.idle.lock().pop_front();
        let mut connection = match kept {
            Some(connection) => connection,
            None => connect_http1(self.address).await?,
        };
        connection
            .ready()
            .await
            .context("a kept connection ended without notice")?;
        let answer = connection
            .send_request(request)
            .await
            .context("no answer")?;
        let last = answer
            .headers()
            .get(CONNECTION)
            .is_some_and(|value| value == "close");
        let body = whole(answer).await?;
        if !last {
            self.idle.lock().push_back(connection);
        }
        Ok(body)
    }

    /// The same over a connection of its own, which the client ends.
    pub async fn post_once(&self, path: &str, body: impl Into<Bytes>) -> anyhow::Result<Bytes> {
        let mut connection = connect_http1(self.address).await?;
        let request = self.request(path).header(CONNECTION, "close");
        let answer = connection
            .send_request(request.body(Full::new(body.into()))?)
            .await
            .context("no answer on a new connection")?;
        whole(answer).await
    }

    fn request(&self, path: &str) -> http::request::Builder {
        Request::post(path).header(HOST, self.address.to_string())
    }
}

async fn connect_http1(address: SocketAddr) -> anyhow::Result<Http1<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.context("no connection")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn whole(answer: Response<hyper::body::Incoming>) -> anyhow::Result<Bytes> {
    let status = answer.status();
    let body = answer.into_body().collect().await;
    let body = body.context("the answer broke off")?.to_bytes();
    ensure!(status == StatusCode::OK, "{status}: {body:?}");
    Ok(body)
}

/// gRPC over a few HTTP/2 connections, each shared by many calls.
pub struct Multiplexed {
    address: SocketAddr,
    slots: Vec<tokio::sync::Mutex<Option<Http2<Bytes>>>>,
}

impl Multiplexed {
    pub fn new(address: SocketAddr, connections: usize) -> Self {
        let slots = (0..connections).map(|_| tokio::sync::Mutex::default());
        Self {
            address,
            slots: slots.collect(),
        }
    }

    /// The body of an answer whose `grpc-status` is 0. `number` chooses the connection.
    pub async fn call(&self, number: usize, path: &str, body: Bytes) -> anyhow::Result<Bytes> {
        match self.try_call(number, path, body.clone()).await? {
            Some(answer) => Ok(answer),
            None => self
                .try_call(number, path, body)
                .await?
                .context("left out by GOAWAY on a new connection"),
        }
    }

    /// None: the connection's GOAWAY left it out.
    async fn try_call(
        &self,
        number: usize,
        path: &str,
        body: Bytes,
    ) -> anyhow::Result<Option<Bytes>> {
        let request = Request::post(format!("http://gateway.test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut connection = self.connection(number).await?;
        let (answer, mut stream) = match connection.send_request(request, false) {
            Err(error) if is_left_out(&error) => return Ok(None),
            begun => begun.context("not sent")?,
        };
        let sent = stream.send_data(body, true);
        let answer = match answer.await {
            Err(error) if is_left_out(&error) => return Ok(None),
            answer => answer.context("no answer")?,
        };
        sent.context("not sent")?;
        let (head, mut body) = answer.into_parts();
        let mut whole = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.context("the answer broke off")?;
            body.flow_control().release_capacity(chunk.len())?;
            whole.extend_from_slice(&chunk);
        }
        let trailers = body
            .trailers()
            .await
            .context("no trailers")?
            .unwrap_or_default();
        let status = head
            .headers
            .get("grpc-status")
            .or(trailers.get("grpc-status"));
        ensure!(
            status.is_some_and(|status| status == "0"),
            "{head:?} {trailers:?}"
        );
        Ok(Some(whole.into()))
    }

    async fn connection(&self, number: usize) -> anyhow::Result<Http2<Bytes>> {
        let mut slot = self.slots[number % self.slots.len()].lock().await;
        if let Some(open) = &*slot {
            match open.clone().ready().await {
                Ok(ready) => return Ok(ready),
                Err(error) => ensure!(
                    error.reason() == Some(Reason::NO_ERROR),
                    "a connection ended without notice: {error}"
                ),
            }
        }
        let stream = TcpStream::connect(self.address)
            .await
            .context("no connection")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = h2::client::handshake(stream).await?;
        tokio::spawn(connection);
        *slot = Some(sender.clone());
        Ok(sender.ready().await?)
    }
}

/// h2 gives this error to streams above the last one that the server's GOAWAY says to be processed, and to no others.
fn is_left_out(error: &h2::Error) -> bool {
    error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR)
}
