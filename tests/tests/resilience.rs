//! Retries, deadlines, health and breaker: what a client gets when workers do not do as they should.

use std::time::{Duration, Instant};

use anyhow::Context;
use forebay_tests::client::{self, Rest, behaving, floats, json_request};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::{Gateway, endpoints};
use forebay_tests::upstream::grpc::{Behaviour, Upstream};
use forebay_tests::wire::{INFER, Wire, frame};
use prost::Message;
use tonic::Code;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

/// Scripted upstreams behind a gateway.
struct Fixture {
    gateway: Gateway,
    upstreams: Vec<Upstream>,
    _folder: Folder,
}

impl Fixture {
    /// `route` and `cluster` are further lines of those tables.
    async fn start(count: usize, route: &str, cluster: &str) -> anyhow::Result<Self> {
        let mut upstreams = Vec::new();
        for number in 0..count {
            upstreams.push(Upstream::start(&format!("upstream-{number}")).await?);
        }
        let folder = folder!()?;
        let addresses = endpoints(upstreams.iter().map(|upstream| upstream.address));
        let gateway = Gateway::start(&folder, &config(&addresses, route, cluster))?;
        gateway.all_healthy().await?;
        Ok(Self {
            gateway,
            upstreams,
            _folder: folder,
        })
    }

    async fn infer(&self) -> anyhow::Result<Result<String, tonic::Status>> {
        let answer = client::inference(self.gateway.address())
            .await?
            .model_infer(floats("m", &ROW))
            .await;
        let upstream = |answer: tonic::Response<_>| {
            let name = answer
                .metadata()
                .get("x-upstream")
                .and_then(|name| name.to_str().ok());
            name.unwrap_or_default().to_owned()
        };
        Ok(answer.map(upstream))
    }

    fn infers(&self) -> Vec<u64> {
        self.upstreams
            .iter()
            .map(|upstream| upstream.infers())
            .collect()
    }
}

fn config(addresses: &str, route: &str, cluster: &str) -> String {
    format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'workers'\n{route}\n\
         [[clusters]]\nname = 'workers'\nendpoints = {addresses}\n{cluster}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_is_retried_on_another_endpoint() -> anyhow::Result<()> {
    // The default budget of retries in a tenth of a second is soon spent by a quick machine.
    let fixture = Fixture::start(2, "retry = { budget_min = 20 }", "").await?;
    for upstream in &fixture.upstreams {
        upstream.next([Behaviour::Fail(Code::Unavailable)]);
    }
    // Both refuse once, so the third attempt is the first that can succeed.
    assert!(fixture.infer().await?.is_ok());
    assert_eq!(fixture.infers().iter().sum::<u64>(), 3);
    assert!(
        fixture.infers().iter().all(|count| *count >= 1),
        "{:?}",
        fixture.infers()
    );
    assert_eq!(
        fixture
            .gateway
            .metric("forebay_retries_total{route=\"all\"}")
            .await?,
        2.0
    );
    // A single refusal never meets the same endpoint twice.
    fixture.upstreams[0].always(Behaviour::Fail(Code::Unavailable));
    for _ in 0..4 {
        assert_eq!(
            fixture.infer().await?.map_err(anyhow::Error::from)?,
            "upstream-1"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_that_would_only_repeat_are_passed_on() -> anyhow::Result<()> {
    let fixture = Fixture::start(2, "", "").await?;
    for (code, http) in [
        (Code::InvalidArgument, 400),
        (Code::NotFound, 404),
        (Code::ResourceExhausted, 429),
        (Code::Internal, 500),
        (Code::FailedPrecondition, 400),
    ] {
        fixture
            .upstreams
            .iter()
            .for_each(|upstream| upstream.always(Behaviour::Fail(code)));
        let before: u64 = fixture.infers().iter().sum();
        let status = fixture.infer().await?.expect_err("the upstream fails");
        assert_eq!(status.code(), code);
        assert!(status.message().ends_with("fails as told"), "{status:?}");
        let answer = Rest::new(fixture.gateway.address()).infer("m", ROW).await?;
        assert_eq!(answer.status, http, "{:?}", answer.body);
        assert!(
            answer.error()?.ends_with("fails as told"),
            "{:?}",
            answer.body
        );
        assert_eq!(
            fixture.infers().iter().sum::<u64>() - before,
            2,
            "{code:?} was retried"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_dies_under_a_call_costs_a_retry() -> anyhow::Result<()> {
    let mut fixture = Fixture::start(
        2,
        "",
        "health = { interval = '100ms', unhealthy_threshold = 1 }",
    )
    .await?;
    fixture
        .upstreams
        .iter()
        .for_each(|upstream| upstream.always(Behaviour::Held));
    let mut inference = client::inference(fixture.gateway.address()).await?;
    let call = tokio::spawn(async move { inference.model_infer(floats("m", &ROW)).await });
    let first = loop {
        if let Some(first) = fixture.infers().iter().position(|count| *count == 1) {
            break first;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    fixture.upstreams[first].stop();
    let other = &fixture.upstreams[1 - first];
    other.until_active(|active| *active == 1).await?;
    other.release();
    let answer = call.await??;
    assert_eq!(
        answer
            .metadata()
            .get("x-upstream")
            .context("x-upstream")?
            .to_str()?,
        format!("upstream-{}", 1 - first)
    );
    fixture.upstreams[first].restart().await?;
    fixture.gateway.all_healthy().await?;
    fixture.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_bounds_retries_when_everything_fails() -> anyhow::Result<()> {
    let route = "retry = { attempts = 10, budget_ratio = 0.0, budget_min = 2, backoff = '0s', backoff_max = '0s' }";
    let fixture = Fixture::start(2, route, "breaker = false").await?;
    fixture
        .upstreams
        .iter()
        .for_each(|upstream| upstream.always(Behaviour::Fail(Code::Unavailable)));
    let inference = client::inference(fixture.gateway.address()).await?;
    const CALLS: u64 = 50;
    let calls = (0..CALLS).map(|_| {
        let mut inference = inference.clone();
        async move { inference.model_infer(floats("m", &ROW)).await }
    });
    let answers = futures::future::join_all(calls).await;
    assert!(answers.iter().all(|answer| {
        answer
            .as_ref()
            .is_err_and(|status| status.code() == Code::Unavailable)
    }));
    let attempts: u64 = fixture.infers().iter().sum();
    // Ten attempts each would be 500. Retries are two at a time, and two in each tenth of a second.
    assert!(
        (CALLS..3 * CALLS).contains(&attempts),
        "{attempts} attempts for {CALLS} calls"
    );
    // The tokens have all come back.
    let in_flight = "forebay_retries_in_flight{route=\"all\"}";
    assert_eq!(fixture.gateway.metric(in_flight).await?, 0.0);
    fixture.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_deadline_spans_all_attempts() -> anyhow::Result<()> {
    let route = "timeout = '600ms'\nretry = { attempts = 5, per_try_timeout = '250ms' }";
    let fixture = Fixture::start(3, route, "breaker = false").await?;
    fixture
        .upstreams
        .iter()
        .for_each(|upstream| upstream.always(Behaviour::Never));
    let rest = Rest::new(fixture.gateway.address());

    let start = Instant::now();
    let status = fixture.infer().await?.expect_err("nobody answers");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let took = start.elapsed();
    assert!((550..1200).contains(&took.as_millis()), "{took:?}");
    assert!(
        fixture.infers().iter().sum::<u64>() >= 2,
        "{:?}",
        fixture.infers()
    );

    let start = Instant::now();
    let answer = rest.infer("m", ROW).await?;
    assert_eq!(answer.status, 504, "{:?}", answer.body);
    assert!(answer.error()?.contains("workers"), "{:?}", answer.body);
    assert!(
        (550..1200).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );

    // The attempts that were given up were reset, so the workers know.
    for upstream in &fixture.upstreams {
        upstream.until_active(|active| *active == 0).await?;
        assert_eq!(upstream.cancelled(), upstream.infers());
    }
    fixture.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_deadline_is_honoured_and_passed_on() -> anyhow::Result<()> {
    let fixture = Fixture::start(2, "", "").await?;
    // By hand, so that the gateway has to act on it and not the client.
    let wire = Wire::connect(fixture.gateway.address()).await?;
    let body = frame(0, &behaving("never", floats("m", &ROW)).encode_to_vec());
    let start = Instant::now();
    let (code, message) = wire.call(INFER, body, &[("grpc-timeout", "300m")]).await?;
    assert_eq!(code, Code::DeadlineExceeded, "{message}");
    assert!(
        (250..900).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );
    let seen = fixture
        .upstreams
        .iter()
        .find_map(|upstream| upstream.last().ok())
        .context("an attempt")?;
    let passed = seen
        .headers
        .get("grpc-timeout")
        .context("grpc-timeout")?
        .as_bytes();
    let passed = forebay_proto::timeout::parse(passed).context("a timeout")?;
    assert!(
        passed <= Duration::from_millis(300) && passed > Duration::from_millis(100),
        "{passed:?}"
    );
    assert_eq!(
        fixture.infers().iter().sum::<u64>(),
        1,
        "there was no time for another attempt"
    );

    // REST callers say it in a header of the same name.
    let builder = http::Request::builder().header("grpc-timeout", "300m");
    let body = json_request(ROW, Some("never")).to_string();
    let start = Instant::now();
    let rest = Rest::new(fixture.gateway.address());
    let answer = rest
        .send(builder, http::Method::POST, "/v2/models/m/infer", body)
        .await?;
    assert_eq!(answer.status, 504, "{:?}", answer.body);
    assert!(
        (250..900).contains(&start.elapsed().as_millis()),
        "{:?}",
        start.elapsed()
    );

    // An impatient caller is nobody's failure.
    for endpoint in fixture.gateway.endpoints().await? {
        assert_eq!(endpoint["failures"], 0, "{endpoint}");
    }
    fixture.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_healthy_endpoint_the_answer_comes_at_once() -> anyhow::Result<()> {
    let fixture = Fixture::start(2, "", "health = { interval = '50ms' }").await?;
    fixture
        .upstreams
        .iter()
        .for_each(|upstream| upstream.set_serving(false));
    let unhealthy =
        |endpoints: &[serde_json::Value]| endpoints.iter().all(|e| e["health"] == "unhealthy");
    fixture
        .gateway
        .until("all unhealthy", Duration::from_secs(10), unhealthy)
        .await?;
    let start = Instant::now();
    let status = fixture.infer().await?.expect_err("no endpoint is healthy");
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("no healthy endpoint"),
        "{status:?}"
    );
    let answer = Rest::new(fixture.gateway.address()).infer("m", ROW).await?;
    assert_eq!(answer.status, 503, "{:?}", answer.body);
    assert!(
        answer.error()?.contains("no healthy endpoint"),
        "{:?}",
        answer.body
    );
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(fixture.infers(), [0, 0]);
    assert_eq!(fixture.gateway.admin("/readyz").await?, "not ready\n");

    fixture.upstreams[1].set_serving(true);
    let one = |endpoints: &[serde_json::Value]| endpoints.iter().any(|e| e["health"] == "healthy");
    fixture
        .gateway
        .until("one healthy", Duration::from_secs(10), one)
        .await?;
    assert_eq!(
        fixture.infer().await?.map_err(anyhow::Error::from)?,
        "upstream-1"
    );
    assert_eq!(fixture.gateway.admin("/readyz").await?, "ready\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_endpoint_is_named_as_such() -> anyhow::Result<()> {
    let mut fixture = Fixture::start(1, "", "health = false\nbreaker = false").await?;
    fixture.upstreams[0].stop();
    let status = fixture.infer().await?.expect_err("nobody listens");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let answer = Rest::new(fixture.gateway.address()).infer("m", ROW).await?;
    assert_eq!(answer.status, 502, "{:?}", answer.body);
    fixture.upstreams[0].restart().await?;
    assert!(fixture.infer().await?.is_ok());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_poison_opens_no_breaker() -> anyhow::Result<()> {
    let cluster = "policy = 'round_robin'\nhealth = false\n\
                   breaker = { consecutive_failures = 3, open_for = '1h' }";
    let fixture = Fixture::start(2, "", cluster).await?;
    for upstream in &fixture.upstreams {
        upstream.next(vec![Behaviour::Fail(Code::Internal); 10]);
    }
    for _ in 0..20 {
        let answer = fixture.infer().await?;
        assert_eq!(answer.expect_err("fails as told").code(), Code::Internal);
    }
    assert!(
        fixture.infer().await?.is_ok(),
        "others are served as before"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_opens_and_one_probe_decides() -> anyhow::Result<()> {
    let cluster = "health = false\nbreaker = { consecutive_failures = 3, open_for = '300ms' }";
    let fixture = Fixture::start(1, "retry = false", cluster).await?;
    let upstream = &fixture.upstreams[0];
    let state = |wanted: &'static str| {
        move |endpoints: &[serde_json::Value]| endpoints[0]["breaker"] == wanted
    };
    upstream.next(vec![Behaviour::Fail(Code::Unavailable); 3]);
    for _ in 0..3 {
        assert_eq!(
            fixture.infer().await?.expect_err("fails as told").code(),
            Code::Unavailable
        );
    }
    fixture
        .gateway
        .until("open", Duration::ZERO, state("open"))
        .await?;
    let status = fixture.infer().await?.expect_err("the breaker is open");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(upstream.infers(), 3);

    // Once its time is up, one call goes through and all others are refused.
    fixture
        .gateway
        .until("half open", Duration::from_secs(5), state("half_open"))
        .await?;
    upstream.always(Behaviour::Held);
    let inference = client::inference(fixture.gateway.address()).await?;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let mut inference = inference.clone();
            tokio::spawn(async move { inference.model_infer(floats("m", &ROW)).await })
        })
        .collect();
    upstream.until_active(|active| *active == 1).await?;
    // Nineteen have been refused before the probe is released. Only then may one more probe take its place.
    let (mut refused, mut probes) = (0, Vec::new());
    for call in calls {
        match tokio::time::timeout(Duration::from_millis(200), call).await {
            Ok(answer) => {
                assert_eq!(answer?.expect_err("one probe").code(), Code::Unavailable);
                refused += 1;
            }
            Err(_) => probes.push(()),
        }
    }
    assert_eq!((refused, probes.len()), (19, 1));
    assert_eq!(upstream.infers(), 4);
    upstream.release();
    fixture
        .gateway
        .until("closed", Duration::from_secs(5), state("closed"))
        .await?;
    assert!(fixture.infer().await?.is_ok());
    fixture.gateway.all_idle().await
}
