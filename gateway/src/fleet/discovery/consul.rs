//! Endpoints out of Consul: the instances of a service whose checks all pass.
//!
//! Consul is asked with blocking queries: it answers when something is newer than the index that it is asked with, or
//! when the wait is over. (How clients are to treat the index: Consul's "Blocking queries".) The one that is asked is
//! mostly the agent on this machine, which knows the servers.

mod catalog;

use std::time::Duration;

use forebay_config::gateway::{Consul, Endpoint};
use http::header::HOST;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::server::{self, Protocol};

const WAIT: Duration = Duration::from_secs(30);
/// Beyond the wait, to which Consul adds a sixteenth at most.
const ANSWER: Duration = Duration::from_secs(12);
/// Queries are this far apart, whatever comes back.
const PACE: Duration = Duration::from_millis(50);
const LARGEST: usize = 64 << 20;

pub struct ConsulSource {
    settings: Consul,
    /// Of the last answer; 0: the next one is wanted at once.
    index: u64,
    not_before: Instant,
}

impl ConsulSource {
    pub fn new(settings: &Consul) -> Self {
        Self {
            settings: settings.clone(),
            index: 0,
            not_before: Instant::now(),
        }
    }

    pub async fn next(&mut self) -> Result<Vec<Endpoint>, String> {
        tokio::time::sleep_until(self.not_before).await;
        // After a failure whatever there is is news.
        let index = std::mem::take(&mut self.index);
        let query = tokio::time::timeout(WAIT + ANSWER, self.query(index)).await;
        let server = &self.settings.server;
        let answer = query.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let (headers, body) = answer.map_err(|reason| format!("{server}: {reason}"))?;
        self.not_before = Instant::now() + PACE;
        let told = headers.get("x-consul-index");
        self.index = catalog::next_index(index, told.and_then(|value| value.to_str().ok()));
        let catalog = catalog::read(&body).map_err(|error| format!("{server}: {error}"))?;
        for wrong in catalog.wrong {
            log::warn!("consul: {wrong}");
        }
        Ok(catalog.endpoints)
    }

    /// On a connection of its own: queries are rare, and a stale connection is one thing less to tell apart.
    async fn query(&self, index: u64) -> Result<(HeaderMap, Bytes), String> {
        let settings = &self.settings;
        let transport =
            server::open(&settings.server, settings.tls.as_ref(), Protocol::Http1).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(transport))
            .await
            .map_err(|error| format!("no HTTP: {error}"))?;
        tokio::spawn(connection);
        let mut request = Request::get(catalog::query(settings, index, WAIT))
            .header(HOST, settings.server.as_str());
        if let Some(path) = &settings.token_file {
            request = request.header("x-consul-token", server::secret(path).await?);
        }
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await;
        let (head, body) = answer
            .map_err(|error| format!("the query failed: {error}"))?
            .into_parts();
        let body = Limited::new(body, LARGEST).collect().await;
        let body = body
            .map_err(|error| format!("the answer broke off: {error}"))?
            .to_bytes();
        if head.status != StatusCode::OK {
            let said = String::from_utf8_lossy(&body);
            let said: String = said
                .lines()
                .next()
                .unwrap_or("")
                .chars()
                .take(200)
                .collect();
            return Err(format!("it answers {}: {said}", head.status));
        }
        Ok((head.headers, body))
    }
}
