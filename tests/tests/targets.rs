//! A route with several clusters: the shares of a split, users that stay on one side, and what stands in for a cluster
//! that is down.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use forebay_tests::client::{self, Answer, Rest, behaving, floats};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::upstream::grpc::{Behaviour, Upstream};
use forebay_tests::upstream::http::HttpUpstream;
use http::{Method, Request, StatusCode};
use tonic::Code;
use tonic::metadata::MetadataValue;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const INFER: &str = "/v2/models/m/infer";

/// gRPC clusters `a` and `b`, and one route named `all`.
struct Pair {
    gateway: Gateway,
    a: Upstream,
    b: Upstream,
    _folder: Folder,
}

impl Pair {
    async fn start(route: &str) -> anyhow::Result<Self> {
        let (a, b) = (Upstream::start("a").await?, Upstream::start("b").await?);
        let config = config(&a, &b, route);
        let folder = folder!()?;
        let gateway = Gateway::start(&folder, &config)?;
        gateway.all_healthy().await?;
        Ok(Self {
            gateway,
            a,
            b,
            _folder: folder,
        })
    }

    fn config(&self, route: &str) -> String {
        config(&self.a, &self.b, route)
    }

    async fn infer(&self, user: Option<&str>) -> Result<String, tonic::Status> {
        let mut request = tonic::Request::new(floats("m", &ROW));
        if let Some(user) = user {
            let user =
                MetadataValue::try_from(user).map_err(|_| tonic::Status::internal("user"))?;
            request.metadata_mut().insert("x-user", user);
        }
        let mut inference = client::inference(self.gateway.address())
            .await
            .map_err(|error| tonic::Status::internal(error.to_string()))?;
        let answer = inference.model_infer(request).await?;
        let name = answer.metadata().get("x-upstream");
        let name = name.and_then(|name| name.to_str().ok()).unwrap_or_default();
        Ok(name.to_owned())
    }

    async fn rest(&self, user: &str) -> anyhow::Result<Answer> {
        let body = client::json_request(ROW, None).to_string();
        let builder = Request::builder().header("x-user", user);
        Rest::new(self.gateway.address())
            .send(builder, Method::POST, INFER, body)
            .await
    }

    /// Who answered over REST.
    fn who(&self, answer: &Answer) -> anyhow::Result<&'static str> {
        let endpoint = answer.header("x-forebay-endpoint");
        let endpoint = endpoint.with_context(|| format!("{}: {:?}", answer.status, answer.body))?;
        Ok(if endpoint == self.a.address.to_string() {
            "a"
        } else {
            "b"
        })
    }

    async fn until_unhealthy(&self, upstream: &Upstream) -> anyhow::Result<()> {
        let address = upstream.address.to_string();
        self.gateway
            .until("one unhealthy", Duration::from_secs(10), |endpoints| {
                endpoints.iter().any(|endpoint| {
                    endpoint["address"] == address.as_str() && endpoint["health"] == "unhealthy"
                })
            })
            .await
            .map(drop)
    }

    async fn taken(&self, cluster: &str, code: u8) -> f64 {
        let name = format!(
            "forebay_target_requests_total{{route=\"all\",cluster=\"{cluster}\",code=\"{code}\"}}"
        );
        self.gateway.metric(&name).await.unwrap_or(0.0)
    }

    async fn fallbacks(&self, to: &str) -> anyhow::Result<f64> {
        let name = format!("forebay_fallbacks_total{{route=\"all\",to=\"{to}\"}}");
        self.gateway.metric(&name).await
    }
}

/// `route`: its keys, apart from the name.
fn config(a: &Upstream, b: &Upstream, route: &str) -> String {
    let mut config =
        format!("[[listeners]]\naddress = '127.0.0.1:0'\n[[routes]]\nname = 'all'\n{route}\n");
    for (name, upstream) in [("a", a), ("b", b)] {
        config.push_str(&format!(
            "[[clusters]]\nname = '{name}'\nbreaker = false\nendpoints = ['{}']\n\
             health = {{ interval = '50ms', timeout = '50ms', unhealthy_threshold = 1 }}\n",
            upstream.address
        ));
    }
    config
}

const SPLIT: &str =
    "split = [{ cluster = 'a', weight = 3 }, { cluster = 'b' }]\nsticky = { header = 'x-user' }";

#[tokio::test(flavor = "multi_thread")]
async fn a_split_shares_by_weight_and_leaves_the_share_of_what_is_down_to_the_others()
-> anyhow::Result<()> {
    const CALLS: u32 = 400;
    let mut pair = Pair::start(SPLIT).await?;
    let mut inference = client::inference(pair.gateway.address()).await?;
    for _ in 0..CALLS {
        inference.model_infer(floats("m", &ROW)).await?;
    }
    // Six standard deviations of 400 draws with a quarter each.
    let to_b = pair.b.infers();
    ensure!((48..=152).contains(&to_b), "{to_b} of {CALLS}");
    let counted = (pair.taken("a", 0).await, pair.taken("b", 0).await);
    ensure!(counted == (f64::from(CALLS) - to_b as f64, to_b as f64));
    let timed = pair
        .gateway
        .metric("forebay_target_duration_seconds_count{route=\"all\",cluster=\"b\"}")
        .await?;
    ensure!(timed == to_b as f64);

    pair.a.stop();
    pair.until_unhealthy(&pair.a).await?;
    for _ in 0..20 {
        ensure!(pair.infer(None).await? == "b");
    }
    pair.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_stays_on_one_side_over_grpc_rest_and_streams() -> anyhow::Result<()> {
    let pair = Pair::start(SPLIT).await?;
    let mut sides = BTreeMap::new();
    for user in 0..24 {
        let user = format!("u{user:04}");
        let side = pair.infer(Some(&user)).await?;
        ensure!(pair.infer(Some(&user)).await? == side);
        ensure!(pair.who(&pair.rest(&user).await?)? == side);
        let mut stream = tonic::Request::new(futures::stream::iter([floats("m", &ROW)]));
        let value = MetadataValue::try_from(user.as_str())?;
        stream.metadata_mut().insert("x-user", value);
        let mut inference = client::inference(pair.gateway.address()).await?;
        let mut answers = inference.model_stream_infer(stream).await?.into_inner();
        let answer = answers.message().await?.context("an answer")?;
        ensure!(answers.message().await?.is_none());
        let answer = answer.infer_response.context("a response")?;
        ensure!(format!("{:?}", answer.parameters["served_by"]).contains(&format!("{side:?}")));
        *sides.entry(side).or_insert(0) += 1;
    }
    ensure!(sides.len() == 2 && sides["a"] > sides["b"], "{sides:?}");
    pair.gateway.all_idle().await?;
    ensure!(pair.taken("a", 0).await == f64::from(4 * sides["a"]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_stays_on_one_side_by_its_address_and_a_reload_moves_it() -> anyhow::Result<()> {
    let keys = |to_a: u32, to_b: u32| {
        format!(
            "sticky = {{ source = true }}\n\
             split = [{{ cluster = 'a', weight = {to_a} }}, {{ cluster = 'b', weight = {to_b} }}]"
        )
    };
    let pair = Pair::start(&keys(1, 1)).await?;
    let side = pair.infer(None).await?;
    for _ in 0..10 {
        ensure!(pair.infer(None).await? == side);
        ensure!(pair.who(&pair.rest("anybody").await?)? == side);
    }
    ensure!(pair.taken(&side, 0).await == 21.0);
    let (a, b) = if side == "a" { (0, 1) } else { (1, 0) };
    pair.gateway.reload(&pair.config(&keys(a, b)), 1)?;
    let other = pair.infer(None).await?;
    ensure!(other != side);
    // What was counted stays.
    ensure!(pair.taken(&side, 0).await == 21.0 && pair.taken(&other, 0).await == 1.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_streams_over_http_is_split_too() -> anyhow::Result<()> {
    let mut a = HttpUpstream::start("a").await?;
    let b = HttpUpstream::start("b").await?;
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\nsticky = {{ cookie = 'sid' }}\n\
         split = [{{ cluster = 'a' }}, {{ cluster = 'b' }}]\n\
         [[clusters]]\nname = 'a'\nprotocol = 'http'\nhealth = false\nendpoints = ['{}']\n\
         breaker = {{ consecutive_failures = 1, open_for = '1h' }}\n\
         [[clusters]]\nname = 'b'\nprotocol = 'http'\nendpoints = ['{}']\n",
        a.address, b.address
    );
    let folder = folder!()?;
    let gateway = Gateway::start(&folder, &config)?;
    gateway.all_healthy().await?;
    let rest = Rest::new(gateway.address());
    let ask = async |user: u32| {
        let builder = Request::builder().header("cookie", format!("theme=dark; sid={user}"));
        let answer = rest.send(builder, Method::GET, "/headers", "").await?;
        let endpoint = answer.header("x-forebay-endpoint").map(str::to_owned);
        anyhow::Ok((answer.status, endpoint))
    };
    let mut users_of_a = Vec::new();
    for user in 0..24 {
        let (status, endpoint) = ask(user).await?;
        ensure!(status == StatusCode::OK);
        ensure!(ask(user).await?.1 == endpoint);
        if endpoint == Some(a.address.to_string()) {
            users_of_a.push(user);
        }
    }
    ensure!((1..24).contains(&users_of_a.len()), "{users_of_a:?}");
    a.stop();
    // The first one finds out; from then on the breaker is open and the other side serves.
    let _ = ask(users_of_a[0]).await?;
    for user in users_of_a {
        let (status, endpoint) = ask(user).await?;
        ensure!((status, endpoint) == (StatusCode::OK, Some(b.address.to_string())));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fallback_stands_in_for_a_cluster_that_is_down_or_fails() -> anyhow::Result<()> {
    let mut pair = Pair::start("cluster = 'a'\nfallback = 'b'\nretry = { attempts = 2 }").await?;
    ensure!(pair.infer(None).await? == "a");
    ensure!(pair.fallbacks("cluster").await? == 0.0);

    // All attempts fail by the endpoint's fault.
    pair.a.always(Behaviour::Fail(Code::Unavailable));
    ensure!(pair.infer(None).await? == "b");
    ensure!(pair.who(&pair.rest("u").await?)? == "b");
    ensure!(pair.fallbacks("cluster").await? == 2.0);
    ensure!(pair.taken("a", 14).await == 2.0 && pair.taken("b", 0).await == 2.0);

    // What a client got wrong is nobody's outage, nor is a model's error, nor a full queue.
    let asked = pair.b.infers();
    for code in [
        Code::InvalidArgument,
        Code::NotFound,
        Code::Internal,
        Code::ResourceExhausted,
    ] {
        pair.a.always(Behaviour::Fail(code));
        ensure!(pair.infer(None).await.err().map(|status| status.code()) == Some(code));
    }
    // Nor is a client that does not wait.
    pair.a.always(Behaviour::Never);
    let mut hasty = tonic::Request::new(floats("m", &ROW));
    hasty.set_timeout(Duration::from_millis(100));
    let mut inference = client::inference(pair.gateway.address()).await?;
    ensure!(inference.model_infer(hasty).await.is_err());
    ensure!(pair.b.infers() == asked);

    // The connection is refused, and then the endpoint is known to be down.
    pair.a.stop();
    ensure!(pair.infer(None).await? == "b");
    pair.until_unhealthy(&pair.a).await?;
    ensure!(pair.infer(None).await? == "b");

    // Both fail: the client hears of what it asked for.
    pair.b.stop();
    pair.until_unhealthy(&pair.b).await?;
    let status = pair.infer(None).await.err().context("nobody is left")?;
    ensure!(
        status.code() == Code::Unavailable && status.message().contains("'a'"),
        "{status}"
    );
    pair.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_executed_is_not_given_to_the_fallback() -> anyhow::Result<()> {
    let route = "cluster = 'a'\nfallback = 'b'\nretry = { idempotent = false }";
    let mut pair = Pair::start(route).await?;
    // Begun, and cut off.
    let waiting = {
        let address = pair.gateway.address();
        tokio::spawn(async move {
            let mut inference = client::inference(address).await?;
            anyhow::Ok(
                inference
                    .model_infer(behaving("never", floats("m", &ROW)))
                    .await,
            )
        })
    };
    pair.a.until_active(|active| *active == 1).await?;
    pair.a.stop();
    let status = waiting.await??.err().context("no answer")?;
    ensure!(status.code() == Code::Unavailable, "{status}");
    ensure!(pair.b.infers() == 0);
    // Surely not begun.
    ensure!(pair.infer(None).await? == "b");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_side_of_a_split_may_stand_in_for_another() -> anyhow::Result<()> {
    let route = "split = [{ cluster = 'a' }, { cluster = 'b', weight = 0 }]\nfallback = 'b'";
    let pair = Pair::start(route).await?;
    ensure!(pair.infer(None).await? == "a");
    pair.a.always(Behaviour::Fail(Code::Unavailable));
    for _ in 0..10 {
        ensure!(pair.infer(None).await? == "b");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_answer_is_the_last_resort() -> anyhow::Result<()> {
    let route = "cluster = 'a'\nretry = { attempts = 1 }\n[routes.fallback]\ncluster = 'b'\n\
                 status = 200\nbody = '[0.5]'\ncontent_type = 'application/json; v=1'\n\
                 grpc_code = 'FAILED_PRECONDITION'\ngrpc_message = 'resting'";
    let mut pair = Pair::start(route).await?;
    pair.a.always(Behaviour::Fail(Code::Unavailable));
    pair.b.always(Behaviour::Fail(Code::Unavailable));
    for round in 1..=2 {
        let status = pair.infer(None).await.err().context("the static answer")?;
        ensure!(status.code() == Code::FailedPrecondition && status.message() == "resting");
        let answer = pair.rest("u").await?;
        ensure!(answer.status == StatusCode::OK && answer.body == "[0.5]");
        ensure!(answer.header("content-type") == Some("application/json; v=1"));
        ensure!(pair.fallbacks("answer").await? == f64::from(2 * round));
        pair.a.stop();
        pair.b.stop();
    }
    // A stream has no other answer either.
    let stream = futures::stream::iter([floats("m", &ROW)]);
    let mut inference = client::inference(pair.gateway.address()).await?;
    let status = inference.model_stream_infer(stream).await.err();
    let status = status.context("the static answer")?;
    ensure!(status.code() == Code::FailedPrecondition && status.message() == "resting");
    pair.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_streams_over_http_falls_back_before_it_has_begun() -> anyhow::Result<()> {
    let (mut a, mut b) = (
        HttpUpstream::start("a").await?,
        HttpUpstream::start("b").await?,
    );
    let config = format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'a'\nfallback = {{ cluster = 'b', status = 503 }}\n\
         [[clusters]]\nname = 'a'\nprotocol = 'http'\nhealth = false\nendpoints = ['{}']\n\
         [[clusters]]\nname = 'b'\nprotocol = 'http'\nhealth = false\nendpoints = ['{}']\n",
        a.address, b.address
    );
    let folder = folder!()?;
    let gateway = Gateway::start(&folder, &config)?;
    let rest = Rest::new(gateway.address());
    let post = async |path: &str| rest.post(path, "text").await;
    let who = |answer: &Answer| answer.header("x-forebay-endpoint").map(str::to_owned);
    ensure!(who(&post("/echo").await?) == Some(a.address.to_string()));
    // An answer is an answer.
    let answer = post("/status/503").await?;
    ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE);
    ensure!(who(&answer) == Some(a.address.to_string()));
    a.stop();
    // Nothing was sent yet: also what is no idempotent method, and with its body.
    let answer = post("/echo").await?;
    ensure!((answer.status, who(&answer)) == (StatusCode::OK, Some(b.address.to_string())));
    ensure!(answer.body == "text");
    b.stop();
    let answer = post("/echo").await?;
    ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE);
    ensure!(answer.error()? == "the service is temporarily unavailable");
    let to = async |kind: &str| {
        let name = format!("forebay_fallbacks_total{{route=\"all\",to=\"{kind}\"}}");
        gateway.metric(&name).await
    };
    ensure!(to("answer").await? == 1.0);
    ensure!(to("cluster").await? >= 1.0);
    gateway.all_idle().await
}
