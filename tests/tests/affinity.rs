//! Requests that belong together go to the same endpoint, through every door and every gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::{InferParameter, ModelInferRequest};
use forebay_tests::client::{self, Rest, floats};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::upstream::grpc::{Behaviour, Upstream};
use forebay_tests::upstream::http::HttpUpstream;
use http::{Method, Request};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

struct Fleet {
    gateway: Gateway,
    upstreams: Vec<Upstream>,
    _folder: Folder,
}

async fn fleet(affinity: &str) -> anyhow::Result<Fleet> {
    let mut upstreams = Vec::new();
    for number in 0..4 {
        upstreams.push(Upstream::start(&format!("upstream-{number}")).await?);
    }
    let folder = folder!()?;
    let addresses = upstreams.iter().map(|upstream| upstream.address);
    let gateway = Gateway::start(&folder, &config(addresses, affinity))?;
    gateway.all_healthy().await?;
    Ok(Fleet {
        gateway,
        upstreams,
        _folder: folder,
    })
}

fn config(addresses: impl IntoIterator<Item = SocketAddr>, affinity: &str) -> String {
    format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n[[clusters]]\nname = 'workers'\npolicy = 'ring_hash'\n\
         endpoints = {}\nhealth = {{ interval = '50ms' }}\n[clusters.affinity]\n{affinity}\n",
        endpoints(addresses)
    )
}

/// Who answers over gRPC, `headers` being the request's.
async fn grpc(
    address: SocketAddr,
    request: ModelInferRequest,
    headers: &[(&'static str, String)],
) -> anyhow::Result<String> {
    let mut request = tonic::Request::new(request);
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse()?);
    }
    let answer = client::inference(address)
        .await?
        .model_infer(request)
        .await?;
    let endpoint = answer.metadata().get("x-forebay-endpoint");
    Ok(endpoint.context("no endpoint")?.to_str()?.to_owned())
}

async fn rest(
    address: SocketAddr,
    path: &str,
    headers: &[(&'static str, String)],
    body: &serde_json::Value,
) -> anyhow::Result<String> {
    let builder = headers
        .iter()
        .fold(Request::builder(), |builder, (name, value)| {
            builder.header(*name, value)
        });
    let answer = Rest::new(address)
        .send(builder, Method::POST, path, body.to_string())
        .await?;
    ensure!(answer.status == 200, "{answer:?}");
    Ok(answer
        .header("x-forebay-endpoint")
        .context("no endpoint")?
        .to_owned())
}

fn with_sequence(id: i64) -> ModelInferRequest {
    let mut request = floats("m", &ROW);
    let choice = ParameterChoice::Int64Param(id);
    let parameter = InferParameter {
        parameter_choice: Some(choice),
    };
    request.parameters.insert("sequence_id".into(), parameter);
    request
}

/// Who answers the messages of one stream.
async fn stream(address: SocketAddr, requests: Vec<ModelInferRequest>) -> anyhow::Result<String> {
    let mut inference = client::inference(address).await?;
    let answers = inference
        .model_stream_infer(tokio_stream::iter(requests))
        .await?;
    let endpoint = answers.metadata().get("x-forebay-endpoint").cloned();
    let mut answers = answers.into_inner();
    while let Some(answer) = answers.message().await? {
        answer.infer_response.context("an answer")?;
    }
    Ok(endpoint.context("no endpoint")?.to_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_keeps_a_session_together_over_grpc_and_rest() -> anyhow::Result<()> {
    let fleet = fleet("header = 'X-Session'").await?;
    let address = fleet.gateway.address();
    let body = client::json_request(ROW, None);
    let mut homes = BTreeSet::new();
    for session in 0..24 {
        let headers = [("x-session", format!("session-{session}"))];
        let home = grpc(address, floats("m", &ROW), &headers).await?;
        for _ in 0..3 {
            assert_eq!(grpc(address, floats("m", &ROW), &headers).await?, home);
            assert_eq!(
                rest(address, "/v2/models/m/infer", &headers, &body).await?,
                home
            );
        }
        homes.insert(home);
    }
    assert!(homes.len() >= 3, "24 sessions are all at {homes:?}");
    // Another gateway knows it too.
    let folder = folder!()?;
    let addresses = fleet
        .upstreams
        .iter()
        .rev()
        .map(|upstream| upstream.address);
    let other = Gateway::start(&folder, &config(addresses, "header = 'x-session'"))?;
    other.all_healthy().await?;
    for session in 0..24 {
        let headers = [("x-session", format!("session-{session}"))];
        assert_eq!(
            grpc(address, floats("m", &ROW), &headers).await?,
            grpc(other.address(), floats("m", &ROW), &headers).await?
        );
    }
    fleet.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_keeps_a_sequence_together_over_grpc_rest_and_streams() -> anyhow::Result<()> {
    let fleet = fleet("parameter = 'sequence_id'").await?;
    let address = fleet.gateway.address();
    let mut homes = BTreeSet::new();
    for id in 1..=16_i64 {
        let home = grpc(address, with_sequence(id), &[]).await?;
        let mut body = client::json_request(ROW, None);
        body["parameters"] = json!({ "sequence_id": id });
        assert_eq!(rest(address, "/v2/models/m/infer", &[], &body).await?, home);
        // The first message decides for the whole stream.
        let messages = vec![with_sequence(id), with_sequence(id + 1), floats("m", &ROW)];
        assert_eq!(stream(address, messages).await?, home);
        homes.insert(home);
    }
    assert!(homes.len() >= 3, "16 sequences are all at {homes:?}");
    fleet.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_lives_at_one_endpoint() -> anyhow::Result<()> {
    let fleet = fleet("model = true").await?;
    let address = fleet.gateway.address();
    for model in ["a", "b", "c", "d", "e", "f"] {
        let home = grpc(address, floats(model, &ROW), &[]).await?;
        let body = client::json_request(ROW, None);
        let path = format!("/v2/models/{model}/infer");
        assert_eq!(rest(address, &path, &[], &body).await?, home);
        assert_eq!(stream(address, vec![floats(model, &ROW)]).await?, home);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_moves_while_its_endpoint_is_away_and_comes_back() -> anyhow::Result<()> {
    let mut fleet = fleet("header = 'x-session'").await?;
    let address = fleet.gateway.address();
    let session = |number: u32| [("x-session", format!("session-{number}"))];
    let mut homes = BTreeMap::new();
    for number in 0..24 {
        homes.insert(
            number,
            grpc(address, floats("m", &ROW), &session(number)).await?,
        );
    }
    let gone = homes[&0].clone();
    let position = fleet
        .upstreams
        .iter()
        .position(|upstream| upstream.address.to_string() == gone)
        .context("an upstream")?;
    fleet.upstreams[position].stop();
    let mut refuge = BTreeSet::new();
    for (number, home) in &homes {
        let now = grpc(address, floats("m", &ROW), &session(*number)).await?;
        assert_ne!(now, gone, "and no request fails");
        if *home == gone {
            for _ in 0..3 {
                assert_eq!(
                    grpc(address, floats("m", &ROW), &session(*number)).await?,
                    now
                );
            }
            refuge.insert(now);
        } else {
            assert_eq!(&now, home, "the others stay");
        }
    }
    assert!(!refuge.is_empty());
    fleet.upstreams[position].restart().await?;
    fleet.gateway.all_healthy().await?;
    for (number, home) in &homes {
        assert_eq!(
            &grpc(address, floats("m", &ROW), &session(*number)).await?,
            home
        );
    }
    fleet.gateway.all_idle().await
}

/// Requests of one session that all wait: the endpoint has its bound, and the others take the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_one_session_is_spread() -> anyhow::Result<()> {
    let fleet = fleet("header = 'x-session'").await?;
    for upstream in &fleet.upstreams {
        upstream.always(Behaviour::Held);
    }
    let address = fleet.gateway.address();
    let calls: Vec<_> = (0..40)
        .map(|_| {
            tokio::spawn(async move {
                grpc(
                    address,
                    floats("m", &ROW),
                    &[("x-session", "one".to_owned())],
                )
                .await
            })
        })
        .collect();
    let all = |endpoints: &[serde_json::Value]| {
        let active = endpoints.iter().filter_map(|one| one["active"].as_u64());
        active.sum::<u64>() == 40
    };
    let endpoints = fleet
        .gateway
        .until("40 calls under way", Duration::from_secs(10), all)
        .await?;
    for endpoint in &endpoints {
        let active = endpoint["active"].as_u64().context("active")?;
        // 1.25 · 40 / 4, rounded up.
        assert!(active <= 13, "{endpoints:?}");
    }
    for upstream in &fleet.upstreams {
        upstream.release();
    }
    for call in calls {
        call.await??;
    }
    fleet.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_websockets_follow_a_cookie_or_the_client() -> anyhow::Result<()> {
    let mut sites = Vec::new();
    for number in 0..4 {
        sites.push(HttpUpstream::start(&format!("site-{number}")).await?);
    }
    let folder = folder!()?;
    let pages = config(
        sites.iter().map(|site| site.address),
        "cookie = 'sid'\nsource = true",
    );
    let pages = pages.replace("policy", "protocol = 'http'\npolicy");
    let gateway = Gateway::start(&folder, &pages)?;
    gateway.all_healthy().await?;
    let address = gateway.address();
    let page = |cookie: Option<u32>| async move {
        let mut builder = Request::builder();
        if let Some(cookie) = cookie {
            builder = builder.header("cookie", format!("theme=dark; sid=s{cookie}"));
        }
        let answer = Rest::new(address)
            .send(builder, Method::GET, "/headers", "")
            .await?;
        let endpoint = answer.header("x-forebay-endpoint").context("no endpoint");
        anyhow::Ok(endpoint?.to_owned())
    };
    let mut homes = BTreeSet::new();
    for cookie in 0..16 {
        let home = page(Some(cookie)).await?;
        assert_eq!(page(Some(cookie)).await?, home);
        assert_eq!(
            socket(address, cookie).await?,
            home,
            "the WebSocket of s{cookie}"
        );
        homes.insert(home);
    }
    assert!(homes.len() >= 3, "16 cookies are all at {homes:?}");
    // Without a cookie the address counts, which is always the same here.
    let home = page(None).await?;
    for _ in 0..8 {
        assert_eq!(page(None).await?, home);
    }
    Ok(())
}

/// Who takes a WebSocket's handshake.
async fn socket(address: SocketAddr, cookie: u32) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let ask = format!(
        "GET /socket HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\ncookie: sid=s{cookie}\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n"
    );
    stream.write_all(ask.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head)?.to_ascii_lowercase();
    ensure!(head.starts_with("http/1.1 101"), "{head}");
    let endpoint = head
        .lines()
        .find_map(|line| line.strip_prefix("x-forebay-endpoint: "));
    Ok(endpoint.with_context(|| head.clone())?.to_owned())
}
