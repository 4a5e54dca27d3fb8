//! The tables of both configurations, and how each is written down alone.

use forebay_config::Problems;
use forebay_config::gateway::Gateway;
use forebay_config::worker::{Model, Worker};

const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\n";
const CLUSTER: &str = "[[clusters]]\nname = \"workers\"\nendpoints = [\"127.0.0.1:8001\"]\n";
const WORKER: &str = "repository = \"/models\"\n";
const ROUTE: &str = "[[routes]]\ncluster = \"workers\"\n";

/// A table of the configuration.
pub struct Case {
    /// What a file has before the keys of the table.
    pub before: String,
    /// Keys that it must have.
    pub required: &'static str,
    pub path: &'static str,
    /// Of its section in the documentation.
    pub heading: &'static str,
    pub parse: fn(&str) -> Result<String, Problems>,
    pub example: &'static str,
}

fn gateway(
    before: &[&str],
    required: &'static str,
    path: &'static str,
    heading: &'static str,
) -> Case {
    let parse = |text: &str| Gateway::parse(text).map(|gateway| format!("{gateway:?}"));
    Case {
        before: before.concat(),
        required,
        path,
        heading,
        parse,
        example: "gateway-full.toml",
    }
}

fn worker(before: &str, required: &'static str, path: &'static str, heading: &'static str) -> Case {
    // Of a model's table, what it comes to.
    let parse = |text: &str| {
        Worker::parse(text).map(|mut worker| {
            let named: Vec<Model> = worker
                .models
                .keys()
                .map(|name| worker.model(name))
                .collect();
            worker.models.clear();
            format!("{worker:?} {named:?}")
        })
    };
    Case {
        before: before.to_owned(),
        required,
        path,
        heading,
        parse,
        example: "worker-full.toml",
    }
}

/// The table of a built-in step that takes and makes one tensor; its key is the heading in small letters.
fn built_in(ports: [&str; 2], required: &'static str, heading: &'static str) -> Case {
    let key = heading.to_lowercase();
    let [input, output] = ports;
    let step = format!(
        "{WORKER}[[models.embed.steps]]\ninputs = {{ {input} = \"x\" }}\noutputs = {{ {output} = \"y\" }}\n"
    );
    let path: &'static str = format!("models.embed.steps[0].{key}").leak();
    worker(
        &format!("{step}[models.embed.steps.{key}]\n"),
        required,
        path,
        heading,
    )
}

pub fn cases() -> Vec<Case> {
    const ENDPOINT: &str = "endpoint = \"http://127.0.0.1:4318\"\n";
    const MINIMAL: &str = "listeners = [{ address = \"127.0.0.1:0\" }]\n\
                           clusters = [{ name = \"workers\", endpoints = [\"127.0.0.1:8001\"] }]\n";
    const STEP: &str = "model = \"m\", inputs = { a = \"x\" }, outputs = { b = \"y\" }";
    let models = "Defaults and models.NAME";
    vec![
        gateway(&[], MINIMAL, "", "Top level of the gateway"),
        gateway(
            &[LISTENER, CLUSTER, "[admin]\n"],
            "listen = \"127.0.0.1:0\"\n",
            "admin",
            "Admin",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[telemetry]\n"],
            "",
            "telemetry",
            "Telemetry",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[telemetry.otlp]\n"],
            ENDPOINT,
            "telemetry.otlp",
            "OTLP",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[redis]\n"],
            "address = \"redis:6379\"\n",
            "redis",
            "Redis",
        ),
        gateway(
            &[
                LISTENER,
                CLUSTER,
                "[redis]\naddress = \"redis:6379\"\n[redis.tls]\n",
            ],
            "",
            "redis.tls",
            "TLS to Redis",
        ),
        gateway(
            &[CLUSTER, "[[listeners]]\n"],
            "address = \"127.0.0.1:0\"\n",
            "listeners[0]",
            "Listeners",
        ),
        gateway(
            &[CLUSTER, LISTENER, "[listeners.tls]\n"],
            "certificate = \"a\"\nkey = \"b\"\n",
            "listeners[0].tls",
            "Listener TLS",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[[routes]]\n"],
            "cluster = \"workers\"\n",
            "routes[0]",
            "Routes",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[[routes]]\n[[routes.split]]\n"],
            "cluster = \"workers\"\n",
            "routes[0].split[0]",
            "Split",
        ),
        gateway(
            &[
                LISTENER,
                CLUSTER,
                "[[routes]]\nsplit = [{ cluster = \"workers\" }]\n[routes.sticky]\n",
            ],
            "source = true\n",
            "routes[0].sticky",
            "Sticky",
        ),
        gateway(
            &[LISTENER, CLUSTER, ROUTE, "[routes.fallback]\n"],
            "body = \"\"\n",
            "routes[0].fallback",
            "Fallback",
        ),
        gateway(
            &[
                LISTENER,
                CLUSTER,
                "[[clusters]]\nname = \"int8\"\nendpoints = [\"127.0.0.1:8002\"]\n",
                ROUTE,
                "[routes.shadow]\n",
            ],
            "cluster = \"int8\"\n",
            "routes[0].shadow",
            "Shadow",
        ),
        gateway(
            &[LISTENER, CLUSTER, ROUTE, "[routes.match]\n"],
            "",
            "routes[0].match",
            "Match",
        ),
        gateway(
            &[LISTENER, CLUSTER, ROUTE, "[routes.match.path]\n"],
            "prefix = \"/v2\"\n",
            "routes[0].match.path",
            "Paths",
        ),
        gateway(
            &[LISTENER, CLUSTER, ROUTE, "[routes.subset]\n"],
            "labels = { gpu = \"h100\" }\n",
            "routes[0].subset",
            "Subset",
        ),
        gateway(
            &[LISTENER, CLUSTER, ROUTE, "[routes.retry]\n"],
            "",
            "routes[0].retry",
            "Retry",
        ),
        gateway(
            &[LISTENER, CLUSTER, ROUTE, "[routes.hedge]\n"],
            "",
            "routes[0].hedge",
            "Hedge",
        ),
        gateway(
            &[LISTENER, CLUSTER, ROUTE, "[routes.cache]\n"],
            "",
            "routes[0].cache",
            "Cache",
        ),
        gateway(
            &[LISTENER, CLUSTER, ROUTE, "[routes.adaptive_limit]\n"],
            "",
            "routes[0].adaptive_limit",
            "Adaptive limit",
        ),
        gateway(
            &[LISTENER, CLUSTER, ROUTE, "[[routes.rate_limits]]\n"],
            "requests = 10\n",
            "routes[0].rate_limits[0]",
            "Rate limits",
        ),
        gateway(
            &[LISTENER, "[[clusters]]\n"],
            "name = \"workers\"\nendpoints = [\"127.0.0.1:8001\"]\n",
            "clusters[0]",
            "Clusters",
        ),
        gateway(
            &[
                LISTENER,
                CLUSTER,
                "policy = \"ring_hash\"\n",
                "[clusters.affinity]\n",
            ],
            "header = \"x-session\"\n",
            "clusters[0].affinity",
            "Affinity",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[clusters.prefer]\n"],
            "labels = { zone = \"a\" }\n",
            "clusters[0].prefer",
            "Prefer",
        ),
        gateway(
            &[
                LISTENER,
                "[[clusters]]\nname = \"a\"\n[[clusters.endpoints]]\n",
            ],
            "address = \"127.0.0.1:8001\"\n",
            "clusters[0].endpoints[0]",
            "Endpoints",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[clusters.discovery]\n"],
            "dns = \"workers.internal:8001\"\n",
            "clusters[0].discovery",
            "Discovery",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[clusters.discovery.etcd]\n"],
            "servers = [\"10.0.0.2:2379\"]\nprefix = \"/workers/\"\n",
            "clusters[0].discovery.etcd",
            "etcd",
        ),
        gateway(
            &[
                LISTENER,
                CLUSTER,
                "[clusters.discovery.etcd]\nservers = [\"10.0.0.2:2379\"]\nprefix = \"/workers/\"\n",
                "[clusters.discovery.etcd.tls]\n",
            ],
            "",
            "clusters[0].discovery.etcd.tls",
            "TLS to sources",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[clusters.discovery.consul]\n"],
            "service = \"workers\"\n",
            "clusters[0].discovery.consul",
            "Consul",
        ),
        gateway(
            &[
                LISTENER,
                CLUSTER,
                "max_requests = 8\n",
                "[clusters.queue]\n",
            ],
            "",
            "clusters[0].queue",
            "Queue",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[clusters.discovery.kubernetes]\n"],
            "service = \"workers\"\n",
            "clusters[0].discovery.kubernetes",
            "Kubernetes",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[clusters.health]\n"],
            "",
            "clusters[0].health",
            "Health checks",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[clusters.breaker]\n"],
            "",
            "clusters[0].breaker",
            "Circuit breaker",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[clusters.outlier]\n"],
            "",
            "clusters[0].outlier",
            "Outliers",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[clusters.slow_start]\n"],
            "",
            "clusters[0].slow_start",
            "Slow start",
        ),
        gateway(
            &[LISTENER, CLUSTER, "[clusters.tls]\n"],
            "server_name = \"workers\"\n",
            "clusters[0].tls",
            "TLS to endpoints",
        ),
        worker("", WORKER, "", "Top level of the worker"),
        worker(
            &format!("{WORKER}[telemetry]\n"),
            "",
            "telemetry",
            "Telemetry",
        ),
        worker(
            &format!("{WORKER}[telemetry.otlp]\n"),
            ENDPOINT,
            "telemetry.otlp",
            "OTLP",
        ),
        worker(
            &format!("{WORKER}[tls]\n"),
            "certificate = \"a\"\nkey = \"b\"\n",
            "tls",
            "Worker TLS",
        ),
        worker(
            &format!("{WORKER}[models.embed]\nsteps = [{{ {STEP} }}]\n"),
            "",
            "models.embed",
            "Ensembles",
        ),
        worker(
            &format!("{WORKER}[models.embed]\nsteps = [{{ {STEP} }}]\n[[models.embed.inputs]]\n"),
            "name = \"x\"\n",
            "models.embed.inputs[0]",
            "Tensors of an ensemble",
        ),
        worker(
            &format!("{WORKER}[[models.embed.steps]]\n"),
            "model = \"m\"\ninputs = { a = \"x\" }\noutputs = { b = \"y\" }\n",
            "models.embed.steps[0]",
            "Steps",
        ),
        built_in(["text", "input_ids"], "file = \"t.json\"\n", "Tokenizer"),
        built_in(["ids", "text"], "file = \"t.json\"\n", "Detokenizer"),
        built_in(["tokens", "embedding"], "method = \"cls\"\n", "Pool"),
        built_in(["image", "pixels"], "size = [2, 2]\n", "Image"),
        built_in(["scores", "labels"], "file = \"l.txt\"\n", "Labels"),
        worker(&format!("{WORKER}[defaults]\n"), "", "defaults", models),
        worker(
            &format!("{WORKER}[defaults.cuda]\n"),
            "",
            "defaults.cuda",
            "CUDA options",
        ),
        worker(
            &format!("{WORKER}[models.minilm.cuda]\n"),
            "",
            "models.minilm.cuda",
            "CUDA options",
        ),
        worker(
            &format!("{WORKER}[models.minilm.padding]\n"),
            "inputs = { attention_mask = 0 }\n",
            "models.minilm.padding",
            "Padding",
        ),
        worker(
            &format!("{WORKER}[models.minilm]\n"),
            "",
            "models.minilm",
            models,
        ),
    ]
}
