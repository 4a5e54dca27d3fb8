//! A route with a cache: what was asked before reaches no endpoint again, what is asked at the same time reaches one
//! once, and nobody gets what is not theirs.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use forebay_proto::inference::infer_parameter::ParameterChoice;
use forebay_proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};
use forebay_tests::client::{
    self, Answer, Inference, Rest, behaving, floats, json_request, output_floats,
};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::upstream::grpc::{Behaviour, Upstream};
use http::{Method, Request as HttpRequest, StatusCode};
use tokio::task::JoinSet;
use tonic::{Code, Request, Response, Status};

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];
const PATH: &str = "/v2/models/m/infer";
const WAITING: &str = "forebay_response_cache_waiting{route=\"all\"}";

struct Setting {
    gateway: Gateway,
    upstream: Upstream,
    grpc: Inference,
    rest: Rest,
    _folder: Folder,
}

fn config(upstream: &Upstream, cache: &str) -> String {
    format!(
        "[[listeners]]\naddress = '127.0.0.1:0'\n\
         [[routes]]\nname = 'all'\ncluster = 'workers'\nretry = false\ncache = {cache}\n\
         [[clusters]]\nname = 'workers'\nendpoints = ['{}']\n",
        upstream.address
    )
}

async fn start(cache: &str) -> anyhow::Result<Setting> {
    let upstream = Upstream::start("worker").await?;
    let folder = folder!()?;
    let gateway = Gateway::start(&folder, &config(&upstream, cache))?;
    gateway.all_healthy().await?;
    Ok(Setting {
        grpc: client::inference(gateway.address()).await?,
        rest: Rest::new(gateway.address()),
        gateway,
        upstream,
        _folder: folder,
    })
}

impl Setting {
    async fn served(&self, result: &str) -> anyhow::Result<f64> {
        let name =
            format!("forebay_response_cache_requests_total{{route=\"all\",result=\"{result}\"}}");
        self.gateway.metric(&name).await
    }

    /// Until so many calls wait for an identical one.
    async fn until_waiting(&self, wanted: usize) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(10);
        while self.gateway.metric(WAITING).await? != wanted as f64 {
            if Instant::now() > end {
                bail!("{} calls wait", self.gateway.metric(WAITING).await?);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn ask(&mut self, headers: &[(&'static str, &'static str)]) -> anyhow::Result<String> {
        let answer = self
            .grpc
            .model_infer(with(floats("m", &ROW), headers))
            .await?;
        Ok(said(&answer))
    }

    async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        let admin = Rest::new(self.gateway.admin);
        admin
            .send(HttpRequest::builder(), Method::DELETE, path, "")
            .await
    }
}

fn with(
    message: ModelInferRequest,
    headers: &[(&'static str, &'static str)],
) -> Request<ModelInferRequest> {
    let mut request = Request::new(message);
    for (name, value) in headers {
        let value = tonic::metadata::MetadataValue::from_static(value);
        request.metadata_mut().insert(*name, value);
    }
    request
}

/// What `x-forebay-cache` says.
fn said<T>(answer: &Response<T>) -> String {
    let said = answer.metadata().get("x-forebay-cache");
    said.and_then(|said| said.to_str().ok())
        .unwrap_or("")
        .to_owned()
}

fn with_id(id: &str) -> ModelInferRequest {
    ModelInferRequest {
        id: id.to_owned(),
        ..floats("m", &ROW)
    }
}

fn with_parameter(name: &str, choice: ParameterChoice) -> ModelInferRequest {
    let mut request = floats("m", &ROW);
    let value = InferParameter {
        parameter_choice: Some(choice),
    };
    request.parameters.insert(name.to_owned(), value);
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_serves_grpc_and_rest_each_with_its_own_id() -> anyhow::Result<()> {
    let mut setting = start("{ ttl = '1h' }").await?;
    let first = setting.grpc.model_infer(with_id("first")).await?;
    ensure!(said(&first) == "miss");
    ensure!(first.metadata().get("age").is_none());
    for id in ["second", ""] {
        let hit = setting.grpc.model_infer(with_id(id)).await?;
        ensure!(said(&hit) == "hit", "{hit:?}");
        ensure!(
            hit.metadata().contains_key("age") && hit.metadata().contains_key("x-forebay-endpoint")
        );
        let want = ModelInferResponse {
            id: id.to_owned(),
            ..first.get_ref().clone()
        };
        ensure!(*hit.get_ref() == want, "{hit:?}");
    }
    let mut body = json_request(ROW, None);
    body["id"] = "over REST".into();
    let hit = setting.rest.post(PATH, body.to_string()).await?;
    ensure!(
        hit.floats()? == ROW && hit.json()?["id"] == "over REST",
        "{hit:?}"
    );
    ensure!(
        hit.header("x-forebay-cache") == Some("hit") && hit.header("age").is_some(),
        "{hit:?}"
    );
    // A long answer is passed on in pieces of its own.
    let rows: Vec<f32> = (0..40_000).map(|number| number as f32).collect();
    for want in ["miss", "hit"] {
        let answer = setting.grpc.model_infer(floats("m", &rows)).await?;
        ensure!(said(&answer) == want);
        ensure!(output_floats(answer.get_ref())? == rows);
    }
    ensure!(setting.upstream.infers() == 2);
    ensure!((setting.served("hit").await?, setting.served("miss").await?) == (4.0, 2.0));
    let entries = "forebay_response_cache_entries{route=\"all\"}";
    ensure!(setting.gateway.metric(entries).await? == 2.0);
    // A reload that leaves the cache as it is leaves its answers too, another one does not.
    let same = config(&setting.upstream, "{ ttl = '1h' }");
    setting.gateway.reload(&same, 1)?;
    ensure!(setting.ask(&[]).await? == "hit");
    setting
        .gateway
        .reload(&config(&setting.upstream, "{ ttl = '2h' }"), 2)?;
    ensure!(setting.ask(&[]).await? == "miss");
    setting.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn identical_calls_at_the_same_time_are_one() -> anyhow::Result<()> {
    const CALLERS: usize = 12;
    let setting = start("true").await?;
    setting.upstream.always(Behaviour::Held);
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let mut grpc = client::inference(setting.gateway.address()).await?;
        let rest = setting.rest.clone();
        callers.spawn(async move {
            if number % 2 == 0 {
                let answer = grpc.model_infer(with_id(&number.to_string())).await?;
                ensure!(answer.get_ref().id == number.to_string());
                ensure!(output_floats(answer.get_ref())? == ROW);
                return Ok(said(&answer));
            }
            let answer = rest.post(PATH, json_request(ROW, None).to_string()).await?;
            ensure!(answer.floats()? == ROW);
            Ok(answer
                .header("x-forebay-cache")
                .context("a word of the cache")?
                .to_owned())
        });
    }
    setting.until_waiting(CALLERS - 1).await?;
    setting.upstream.release();
    let mut said = callers
        .join_all()
        .await
        .into_iter()
        .collect::<anyhow::Result<Vec<String>>>()?;
    said.sort();
    ensure!(
        said[0] == "miss" && said[1..].iter().all(|said| said == "shared"),
        "{said:?}"
    );
    ensure!(setting.upstream.infers() == 1);
    ensure!(setting.served("shared").await? == CALLERS as f64 - 1.0);
    setting.gateway.all_idle().await
}

/// Callers that wait for one that leads and never gets an answer.
async fn followers(
    setting: &Setting,
    count: usize,
) -> anyhow::Result<JoinSet<Result<Response<ModelInferResponse>, Status>>> {
    let mut followers = JoinSet::new();
    for _ in 0..count {
        let mut grpc = client::inference(setting.gateway.address()).await?;
        followers.spawn(async move { grpc.model_infer(floats("m", &ROW)).await });
    }
    setting.until_waiting(count).await?;
    Ok(followers)
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_survive_the_one_that_leads() -> anyhow::Result<()> {
    // It leaves, or it has too little time of its own.
    for patience in [None, Some(Duration::from_secs(2))] {
        let setting = start("true").await?;
        setting.upstream.next([Behaviour::Never, Behaviour::Answer]);
        let mut grpc = setting.grpc.clone();
        let mut request = Request::new(floats("m", &ROW));
        if let Some(patience) = patience {
            request.set_timeout(patience);
        }
        let leader = tokio::spawn(async move { grpc.model_infer(request).await });
        setting.upstream.until_active(|active| *active == 1).await?;
        let followers = followers(&setting, 5).await?;
        if patience.is_some() {
            let failed = leader.await?.expect_err("it has too little time");
            ensure!(
                failed.code() == Code::DeadlineExceeded || failed.code() == Code::Cancelled,
                "{failed}"
            );
        } else {
            leader.abort();
        }
        let mut said_all = Vec::new();
        for answer in followers.join_all().await {
            said_all.push(said(&answer?));
        }
        let misses = said_all.iter().filter(|said| *said == "miss").count();
        ensure!(misses == 1, "one leads on: {said_all:?}");
        // Who looked after the answer was kept finds it; all others waited again.
        let served = |said: &String| ["miss", "shared", "hit"].contains(&said.as_str());
        ensure!(said_all.iter().all(served), "{said_all:?}");
        ensure!(setting.upstream.infers() == 2);
        setting.gateway.all_idle().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_has_a_deadline_of_its_own() -> anyhow::Result<()> {
    let setting = start("true").await?;
    setting.upstream.always(Behaviour::Held);
    let mut grpc = setting.grpc.clone();
    let leader = tokio::spawn(async move { grpc.model_infer(floats("m", &ROW)).await });
    setting.upstream.until_active(|active| *active == 1).await?;
    let builder = HttpRequest::builder().header("grpc-timeout", "100m");
    let body = json_request(ROW, None).to_string();
    let hasty = setting.rest.send(builder, Method::POST, PATH, body).await?;
    ensure!(hasty.status == StatusCode::GATEWAY_TIMEOUT, "{hasty:?}");
    setting.upstream.release();
    ensure!(said(&leader.await??) == "miss");
    ensure!(setting.upstream.infers() == 1);
    setting.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_kept_is_not() -> anyhow::Result<()> {
    let mut setting = start("{ max_entry_size = '1KiB', vary = [] }").await?;
    // Errors, however many ask at once.
    setting
        .upstream
        .always(Behaviour::Fail(Code::InvalidArgument));
    let mut callers = JoinSet::new();
    for _ in 0..10 {
        let mut grpc = setting.grpc.clone();
        callers.spawn(async move { grpc.model_infer(floats("m", &ROW)).await });
    }
    for answer in callers.join_all().await {
        ensure!(answer.expect_err("it fails").code() == Code::InvalidArgument);
    }
    ensure!(setting.upstream.infers() == 10);
    setting.upstream.always(Behaviour::Answer);
    let mut asked = 10;
    let shared = ParameterChoice::StringParam("region".to_owned());
    let mut in_memory = floats("m", &ROW);
    let input = with_parameter("shared_memory_region", shared).parameters;
    in_memory.inputs[0].parameters = input;
    let sequence = with_parameter("sequence_id", ParameterChoice::Int64Param(7));
    let long: Vec<f32> = vec![0.5; 400];
    let cases = [
        (with(in_memory, &[]), "bypass"),
        (with(sequence, &[]), "bypass"),
        (
            with(floats("m", &ROW), &[("cache-control", "no-store")]),
            "bypass",
        ),
        // Larger than what is kept.
        (with(floats("m", &long), &[]), "miss"),
    ];
    for (request, want) in cases {
        for _ in 0..2 {
            let again = {
                let mut again = Request::new(request.get_ref().clone());
                *again.metadata_mut() = request.metadata().clone();
                again
            };
            let answer = setting.grpc.model_infer(again).await?;
            ensure!(said(&answer) == want, "{want}: {answer:?}");
            asked += 1;
            ensure!(setting.upstream.infers() == asked);
        }
    }
    let entries = "forebay_response_cache_entries{route=\"all\"}";
    ensure!(setting.gateway.metric(entries).await? == 0.0);
    // An answer that is made anew takes the place of the one that is kept.
    ensure!(setting.ask(&[]).await? == "miss");
    ensure!(setting.ask(&[("cache-control", "no-cache")]).await? == "miss");
    ensure!(setting.ask(&[("cache-control", "max-age=60")]).await? == "hit");
    ensure!(setting.gateway.metric(entries).await? == 1.0);
    // Other calls about a model are passed on as ever.
    let metadata = setting.rest.get("/v2/models/m").await?;
    ensure!(
        metadata.header("x-forebay-cache") == Some("bypass"),
        "{metadata:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_share_answers_only_where_the_route_says_so() -> anyhow::Result<()> {
    let mut setting = start("true").await?;
    ensure!(setting.ask(&[("authorization", "Bearer a")]).await? == "miss");
    ensure!(setting.ask(&[("authorization", "Bearer b")]).await? == "miss");
    ensure!(setting.ask(&[]).await? == "miss");
    ensure!(
        setting
            .ask(&[("authorization", "Bearer a"), ("x-request", "7")])
            .await?
            == "hit"
    );
    let mut setting = start("{ vary = ['x-tenant'] }").await?;
    ensure!(
        setting
            .ask(&[("authorization", "Bearer a"), ("x-tenant", "t")])
            .await?
            == "miss"
    );
    ensure!(
        setting
            .ask(&[("authorization", "Bearer b"), ("x-tenant", "t")])
            .await?
            == "hit"
    );
    ensure!(setting.ask(&[("x-tenant", "u")]).await? == "miss");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_forgets_a_model_or_all() -> anyhow::Result<()> {
    let mut setting = start("true").await?;
    for model in ["a", "b"] {
        setting.grpc.model_infer(floats(model, &ROW)).await?;
    }
    let removed = setting.delete("/cache?route=all&model=a").await?;
    ensure!(
        removed.status == StatusCode::OK && removed.json()?["removed"] == 1,
        "{removed:?}"
    );
    for (model, want) in [("a", "miss"), ("b", "hit")] {
        let answer = setting.grpc.model_infer(floats(model, &ROW)).await?;
        ensure!(said(&answer) == want, "{model}");
    }
    // What was asked before a purge is not kept after it, and nobody waits for it.
    let mut grpc = setting.grpc.clone();
    let held = behaving("held", floats("c", &ROW));
    let before = tokio::spawn(async move { grpc.model_infer(held).await });
    setting.upstream.until_active(|active| *active == 1).await?;
    ensure!(setting.delete("/cache").await?.json()?["removed"] == 2);
    setting.upstream.release();
    for want in ["miss", "hit"] {
        let held = behaving("held", floats("c", &ROW));
        ensure!(said(&setting.grpc.model_infer(held).await?) == want);
    }
    ensure!(said(&before.await??) == "miss");
    for (path, status) in [
        ("/cache?route=other", StatusCode::NOT_FOUND),
        ("/cache?modle=a", StatusCode::BAD_REQUEST),
    ] {
        let refused = setting.delete(path).await?;
        ensure!(
            refused.status == status && !refused.error()?.is_empty(),
            "{refused:?}"
        );
    }
    let admin = Rest::new(setting.gateway.admin);
    ensure!(admin.get("/cache").await?.status == StatusCode::METHOD_NOT_ALLOWED);
    Ok(())
}
