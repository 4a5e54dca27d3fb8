//! Which route takes a request, and what a client gets when none does.

use anyhow::{Context, ensure};
use forebay_tests::client::{self, Rest, floats, output_floats};
use forebay_tests::folder;
use forebay_tests::folder::Folder;
use forebay_tests::gateway::Gateway;
use forebay_tests::upstream::grpc::Upstream;
use forebay_tests::upstream::http::HttpUpstream;
use http::{Method, Request};
use tonic::Code;
use tonic::metadata::MetadataValue;

const ROW: [f32; 4] = [1.0, 2.0, 3.0, 4.0];

type Headers<'a> = &'a [(&'a str, &'a str)];

/// A gateway with one cluster for each name, and the routes given.
struct Fixture {
    gateway: Gateway,
    upstreams: Vec<(String, Upstream)>,
    _folder: Folder,
}

impl Fixture {
    async fn start(names: &[&str], routes: &str) -> anyhow::Result<Self> {
        let mut config = format!("[[listeners]]\naddress = \"127.0.0.1:0\"\n{routes}\n");
        let mut upstreams = Vec::new();
        for name in names {
            let upstream = Upstream::start(name).await?;
            config.push_str(&format!(
                "[[clusters]]\nname = '{name}'\nendpoints = ['{}']\n",
                upstream.address
            ));
            upstreams.push(((*name).to_owned(), upstream));
        }
        let folder = folder!()?;
        let gateway = Gateway::start(&folder, &config)?;
        gateway.all_healthy().await?;
        Ok(Self {
            gateway,
            upstreams,
            _folder: folder,
        })
    }

    fn upstream(&self, name: &str) -> anyhow::Result<&Upstream> {
        let found = self.upstreams.iter().find(|(own, _)| own == name);
        found
            .map(|(_, upstream)| upstream)
            .with_context(|| format!("no upstream {name}"))
    }

    /// Who answers a unary gRPC call for this model.
    async fn grpc(&self, model: &str, version: &str) -> anyhow::Result<String> {
        let mut request = floats(model, &ROW);
        request.model_version = version.to_owned();
        let answer = client::inference(self.gateway.address())
            .await?
            .model_infer(request)
            .await?;
        Ok(answer
            .metadata()
            .get("x-upstream")
            .context("x-upstream")?
            .to_str()?
            .to_owned())
    }

    /// Who answers a REST inference on this path; told apart by the endpoint.
    async fn rest(&self, path: &str) -> anyhow::Result<String> {
        let answer = Rest::new(self.gateway.address())
            .post(path, client::json_request(ROW, None).to_string())
            .await?;
        self.who(&answer)
    }

    fn who(&self, answer: &client::Answer) -> anyhow::Result<String> {
        let endpoint = answer.header("x-forebay-endpoint");
        let endpoint = endpoint.with_context(|| format!("{}: {:?}", answer.status, answer.body))?;
        let found = self
            .upstreams
            .iter()
            .find(|(_, upstream)| upstream.address.to_string() == endpoint);
        Ok(found
            .with_context(|| format!("who is {endpoint}?"))?
            .0
            .clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_and_versions_are_told_apart_over_both_protocols() -> anyhow::Result<()> {
    let fixture = Fixture::start(
        &["rest-of-all", "minilm", "trial"],
        r#"
        [[routes]]
        name = "everything"
        cluster = "rest-of-all"
        [[routes]]
        name = "minilm"
        cluster = "minilm"
        match = { model = "minilm" }
        [[routes]]
        name = "trial"
        cluster = "trial"
        match = { model = "minilm", version = "2" }
        "#,
    )
    .await?;
    for (model, version, wanted) in [
        ("minilm", "", "minilm"),
        ("minilm", "1", "minilm"),
        ("minilm", "2", "trial"),
        ("other", "2", "rest-of-all"),
        ("minilm-2", "", "rest-of-all"),
    ] {
        assert_eq!(
            fixture.grpc(model, version).await?,
            wanted,
            "gRPC {model} {version}"
        );
        let path = match version {
            "" => format!("/v2/models/{model}/infer"),
            version => format!("/v2/models/{model}/versions/{version}/infer"),
        };
        assert_eq!(fixture.rest(&path).await?, wanted, "{path}");
        // What arrives is what was asked for, whatever route it took.
        let seen = fixture.upstream(wanted)?.last()?;
        assert_eq!(
            (seen.model.as_str(), seen.version.as_str()),
            (model, version)
        );
    }
    assert_eq!(
        fixture.rest("/v2/models/mini%6Cm/infer").await?,
        "minilm",
        "percent-encoded"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_routed_by_the_model_of_its_first_message() -> anyhow::Result<()> {
    let fixture = Fixture::start(
        &["any", "minilm"],
        r#"
        [[routes]]
        cluster = "any"
        [[routes]]
        cluster = "minilm"
        match = { model = "minilm" }
        "#,
    )
    .await?;
    for (model, wanted) in [("minilm", "minilm"), ("other", "any")] {
        let requests = tokio_stream::iter([floats(model, &ROW), floats("minilm", &ROW)]);
        let mut inference = client::inference(fixture.gateway.address()).await?;
        let mut answers = inference.model_stream_infer(requests).await?.into_inner();
        let mut count = 0;
        while let Some(answer) = answers.message().await? {
            let served_by =
                answer.infer_response.context("an answer")?.parameters["served_by"].clone();
            assert!(
                format!("{served_by:?}").contains(&format!("\"{wanted}\"")),
                "{served_by:?}"
            );
            count += 1;
        }
        assert_eq!(count, 2);
    }
    Ok(())
}

/// The head of a stream's first message is read before its route is known; none of it may be lost, however large
/// the message is.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_first_message_arrives_whole() -> anyhow::Result<()> {
    let fixture = Fixture::start(
        &["minilm"],
        "[[routes]]\ncluster = 'minilm'\nmatch = { model = 'minilm' }\n",
    )
    .await?;
    for count in [4, 15_000, 17_500, 50_000, 700_000] {
        let row: Vec<f32> = (0..count).map(|n| n as f32).collect();
        let requests = tokio_stream::iter([floats("minilm", &row), floats("minilm", &ROW)]);
        let inference = client::inference(fixture.gateway.address()).await?;
        let mut inference = inference.max_decoding_message_size(64 << 20);
        let mut answers = inference.model_stream_infer(requests).await?.into_inner();
        for wanted in [row.as_slice(), &ROW] {
            let answer = answers.message().await?.context("an answer")?;
            let answer = answer.infer_response.context("no error")?;
            assert!(output_floats(&answer)? == wanted, "{count} numbers differ");
        }
        assert!(answers.message().await?.is_none());
    }
    Ok(())
}

/// Larger than what is held back for retries: the rest of it streams.
#[tokio::test(flavor = "multi_thread")]
async fn large_answers_arrive_whole() -> anyhow::Result<()> {
    let fixture = Fixture::start(&["any"], "").await?;
    let row: Vec<f32> = (0..2_500_000).map(|n| n as f32).collect();
    let inference = client::inference(fixture.gateway.address()).await?;
    let mut inference = inference.max_decoding_message_size(64 << 20);
    let answer = inference.model_infer(floats("m", &row)).await?.into_inner();
    assert!(output_floats(&answer)? == row);
    let row = &row[..1_200_000];
    let body = serde_json::json!({"inputs": [
        {"name": "x", "datatype": "FP32", "shape": [row.len() / 4, 4], "data": row}
    ]});
    let rest = Rest::new(fixture.gateway.address());
    let answer = rest.post("/v2/models/m/infer", body.to_string()).await?;
    assert!(answer.floats()? == row);
    fixture.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_most_specific_route_wins_wherever_it_stands() -> anyhow::Result<()> {
    let fixture = Fixture::start(
        &[
            "any",
            "get",
            "header",
            "model",
            "regex",
            "prefix",
            "long-prefix",
            "exact",
            "suffix",
            "host",
        ],
        r#"
        [[routes]]
        cluster = "any"
        [[routes]]
        cluster = "get"
        match = { methods = ["GET"] }
        [[routes]]
        cluster = "header"
        match = { headers = { "x-debug" = true, "x-tenant" = "a" } }
        [[routes]]
        cluster = "model"
        match = { model = "m" }
        [[routes]]
        cluster = "regex"
        match = { path = { regex = "/v2/models/(pre|re)[a-z]*(/.*)?" } }
        [[routes]]
        cluster = "prefix"
        match = { path = { prefix = "/v2/models/pre" } }
        [[routes]]
        cluster = "long-prefix"
        match = { path = { prefix = "/v2/models/pre/versions" } }
        [[routes]]
        cluster = "exact"
        match = { path = "/v2/models/pre/versions/1/infer" }
        [[routes]]
        cluster = "suffix"
        match = { host = "*.example.com" }
        [[routes]]
        cluster = "host"
        match = { host = "api.example.com" }
        "#,
    )
    .await?;
    let rest = Rest::new(fixture.gateway.address());
    let body = client::json_request(ROW, None).to_string();
    let debug = [("x-debug", "1"), ("x-tenant", "a")];
    let (host, suffix) = (
        [("host", "API.example.com:80")],
        [("host", "a.b.example.com")],
    );
    let cases: [(&str, Headers<'_>, &str); 14] = [
        ("/v2/models/z/infer", &[], "any"),
        ("/v2/models/z/infer", &debug, "header"),
        ("/v2/models/z/infer", &debug[..1], "any"),
        (
            "/v2/models/z/infer",
            &[("x-debug", "1"), ("x-tenant", "b")],
            "any",
        ),
        ("/v2/models/m/infer", &debug, "model"),
        ("/v2/models/re/infer", &debug, "regex"),
        ("/v2/models/pre/infer", &debug, "prefix"),
        ("/v2/models/prefix/infer", &[], "regex"),
        ("/v2/models/pre/versions/2/infer", &[], "long-prefix"),
        ("/v2/models/pre/versions/1/infer", &[], "exact"),
        ("/v2/models/pre/versions/1/infer", &suffix, "suffix"),
        ("/v2/models/pre/versions/1/infer", &host, "host"),
        ("/v2/models/z/infer", &[("host", "example.com")], "any"),
        (
            "/v2/models/z/infer",
            &[("host", "api.example.com.evil")],
            "any",
        ),
    ];
    for (path, headers, wanted) in cases {
        let builder = headers
            .iter()
            .fold(Request::builder(), |builder, (name, value)| {
                builder.header(*name, *value)
            });
        let answer = rest.send(builder, Method::POST, path, body.clone()).await?;
        assert_eq!(fixture.who(&answer)?, wanted, "{path} {headers:?}");
    }
    let answer = rest.get("/v2").await?;
    assert_eq!(
        (answer.status.as_u16(), fixture.who(&answer)?.as_str()),
        (200, "get")
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_route_every_client_is_told_in_its_own_terms() -> anyhow::Result<()> {
    let fixture = Fixture::start(
        &["minilm", "other"],
        r#"
        [[routes]]
        cluster = "minilm"
        match = { model = "minilm" }
        [[routes]]
        cluster = "other"
        match = { path = "/nowhere" }
        "#,
    )
    .await?;
    let address = fixture.gateway.address();
    for rest in [Rest::new(address), Rest::http2(address)] {
        for path in [
            "/v2/models/absent/infer",
            "/",
            "/index.html",
            "/v2/models/absent",
        ] {
            let answer = rest.post(path, "{}").await?;
            assert_eq!(answer.status, 404, "{path}: {:?}", answer.body);
            assert_eq!(
                answer.header("content-type"),
                Some("application/json"),
                "{path}"
            );
            assert!(answer.error()?.contains(path), "{path}: {:?}", answer.body);
            assert_eq!(answer.header("x-forebay-endpoint"), None);
        }
    }
    let mut inference = client::inference(address).await?;
    let status = inference
        .model_infer(floats("absent", &ROW))
        .await
        .expect_err("no route");
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert!(
        status
            .message()
            .contains("/inference.GRPCInferenceService/ModelInfer"),
        "{status:?}"
    );
    let status = inference
        .server_live(forebay_proto::inference::ServerLiveRequest {})
        .await
        .expect_err("no route");
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    let stream = inference
        .model_stream_infer(tokio_stream::iter([floats("absent", &ROW)]))
        .await;
    let status = stream.expect_err("no route");
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    assert_eq!(
        fixture.gateway.metric("forebay_unrouted_total").await?,
        11.0
    );
    fixture.gateway.all_idle().await
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_calls_match_headers_and_hosts_too() -> anyhow::Result<()> {
    let fixture = Fixture::start(
        &["any", "tenant"],
        r#"
        [[routes]]
        cluster = "any"
        [[routes]]
        cluster = "tenant"
        match = { headers = { "x-tenant" = "a" } }
        "#,
    )
    .await?;
    let mut inference = client::inference(fixture.gateway.address()).await?;
    for (tenant, wanted) in [("a", "tenant"), ("b", "any")] {
        let mut request = tonic::Request::new(floats("m", &ROW));
        request
            .metadata_mut()
            .insert("x-tenant", MetadataValue::try_from(tenant)?);
        let answer = inference.model_infer(request).await?;
        assert_eq!(
            answer.metadata().get("x-upstream").context("x-upstream")?,
            wanted
        );
        let endpoint = answer
            .metadata()
            .get("x-forebay-endpoint")
            .context("x-forebay-endpoint")?;
        assert_eq!(
            endpoint.to_str()?,
            fixture.upstream(wanted)?.address.to_string()
        );
        // The client's own metadata goes along, and so does the time that the route allows.
        let headers = fixture.upstream(wanted)?.last()?.headers;
        assert_eq!(headers.get("x-tenant").context("x-tenant")?, tenant);
        assert!(headers.contains_key("grpc-timeout"));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_and_readiness_are_answered_over_rest() -> anyhow::Result<()> {
    let fixture = Fixture::start(&["one"], "").await?;
    let rest = Rest::new(fixture.gateway.address());
    assert_eq!(rest.get("/v2/health/live").await?.status, 200);
    assert_eq!(rest.get("/v2").await?.json()?["name"], "one");
    assert_eq!(rest.get("/v2/models/m").await?.json()?["platform"], "one");
    let answer = rest.infer("m", ROW).await?;
    assert_eq!(answer.floats()?, ROW);
    assert_eq!(answer.json()?["model_name"], "m");
    let wrong = rest.get("/v2/models/m/infer").await?;
    assert_eq!(
        (wrong.status.as_u16(), wrong.header("allow")),
        (405, Some("POST")),
        "{:?}",
        wrong.body
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_to_a_cluster_without_grpc_is_refused() -> anyhow::Result<()> {
    let pages = HttpUpstream::start("pages").await?;
    let folder = folder!()?;
    let gateway = Gateway::start(
        &folder,
        &format!(
            "[[listeners]]\naddress = '127.0.0.1:0'\n\
             [[clusters]]\nname = 'pages'\nprotocol = 'http'\nendpoints = ['{}']\n",
            pages.address
        ),
    )?;
    gateway.all_healthy().await?;
    let status = client::inference(gateway.address())
        .await?
        .model_infer(floats("m", &ROW))
        .await;
    let status = status.expect_err("pages speak no gRPC");
    assert!(
        status.metadata().get("x-forebay-endpoint").is_none() || status.code() != Code::Ok,
        "{status:?}"
    );
    // The pages themselves are there all the while, also below /v2.
    let answer = Rest::new(gateway.address())
        .post("/echo/v2", "hello")
        .await?;
    ensure!(answer.body == "hello", "{answer:?}");
    assert_eq!(
        Rest::new(gateway.address())
            .get("/v2/models/m")
            .await?
            .header("x-upstream"),
        Some("pages")
    );
    Ok(())
}
