//! gRPC spoken by hand, for what no gRPC client would send or would keep to itself (a deadline, for example).

use std::net::SocketAddr;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::Request;
use tokio::net::TcpStream;
use tonic::Code;

use crate::client::PATIENCE;

pub const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// One HTTP/2 connection.
#[derive(Clone)]
pub struct Wire(SendRequest<Bytes>);

impl Wire {
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let (client, connection) =
            h2::client::handshake(TcpStream::connect(address).await?).await?;
        tokio::spawn(connection);
        Ok(Self(client))
    }

    /// Sends a call's body as it is; the status that came back.
    pub async fn call(
        &self,
        path: &str,
        body: Bytes,
        headers: &[(&str, &str)],
    ) -> anyhow::Result<(Code, String)> {
        let exchange = async {
            let builder = Request::post(format!("http://gateway.test{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers");
            let builder = headers.iter().fold(builder, |builder, (name, value)| {
                builder.header(*name, *value)
            });
            let mut ready = self.0.clone().ready().await?;
            let (answer, mut stream) = ready.send_request(builder.body(())?, false)?;
            // It may be refused before it is all sent.
            let _ = stream.send_data(body, true);
            let (head, mut body) = answer.await?.into_parts();
            while let Some(chunk) = body.data().await {
                body.flow_control().release_capacity(chunk?.len())?;
            }
            let trailers = body.trailers().await?.unwrap_or_default();
            let field = |name: &str| head.headers.get(name).or(trailers.get(name)).cloned();
            let code =
                field("grpc-status").with_context(|| format!("no grpc-status in {head:?}"))?;
            let message = field("grpc-message")
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            Ok((
                Code::from_bytes(code.as_bytes()),
                message.unwrap_or_default(),
            ))
        };
        tokio::time::timeout(PATIENCE, exchange)
            .await
            .context("no answer")?
    }
}

/// A message in gRPC's framing; flag 1 says that it is compressed.
pub fn frame(flag: u8, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(flag);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put_slice(message);
    framed.freeze()
}
