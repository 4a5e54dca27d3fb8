//! No key is known but ignored, each is documented with its true default, and each is in an example.
//!
//! A key that cannot exist makes each table list those that it knows; a value that no key takes must then be
//! refused for every one of them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::fs;
use std::path::Path;

use forebay_config::Problems;
use forebay_config::gateway::Gateway;
use forebay_config::worker::{Model, Worker};

const LISTENER: &str = "[[listeners]]\naddress = \"127.0.0.1:0\"\n";
const CLUSTER: &str = "[[clusters]]\nname = \"workers\"\nendpoints = [\"127.0.0.1:8001\"]\n";
const WORKER: &str = "repository = \"/models\"\n";
const ROUTE: &str = "[[routes]]\ncluster = \"workers\"\n";

/// A table of the configuration.
struct Case {
    /// What a file has before the keys of the table.
    before: String,
    /// Keys that it must have.
    required: &'static str,
    path: &'static str,
    /// Of its section in the documentation.
    heading: &'static str,
    parse: fn(&str) -> Result<String, Problems>,
    example: &'static str,
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

fn cases() -> Vec<Case> {
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

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// What the table says it knows.
fn known_keys(case: &Case) -> Vec<String> {
    let problems = (case.parse)(&format!("{}no-such-key-anywhere = 1\n", case.before)).unwrap_err();
    let path = join(case.path, "no-such-key-anywhere");
    let problem = problems.0.iter().find(|problem| problem.path == path);
    let expected = &problem
        .unwrap_or_else(|| panic!("{path} is not refused: {problems}"))
        .expected;
    expected
        .strip_prefix("one of ")
        .unwrap()
        .split(", ")
        .map(str::to_owned)
        .collect()
}

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(path)).unwrap()
}

/// Key and default of each row of the section's table, without the marks of Markdown.
fn documented(case: &Case) -> Vec<(String, String)> {
    let documentation = read("docs/configuration.md");
    let heading = |line: &str| {
        line.starts_with('#')
            .then(|| line.trim_start_matches('#').trim().to_owned())
    };
    let section = documentation
        .lines()
        .skip_while(|line| heading(line).is_none_or(|heading| heading != case.heading))
        .skip(1)
        .take_while(|line| heading(line).is_none());
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let key = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        Some((key.to_owned(), cells.get(3)?.to_string()))
    };
    section.filter_map(row).collect()
}

#[test]
fn every_key_is_read() {
    for case in cases() {
        for key in known_keys(&case) {
            // A date is the one kind of value that nothing here takes.
            let once = |line: &&str| !line.starts_with(&format!("{key} = "));
            let before: String = case.before.split_inclusive('\n').filter(once).collect();
            let problems = (case.parse)(&format!("{before}{key} = 1979-05-27\n")).unwrap_err();
            let path = join(case.path, &key);
            let refused = problems
                .0
                .iter()
                .any(|problem| problem.path == path && problem.found == "1979-05-27");
            assert!(refused, "{path} takes a date: {problems}");
        }
    }
}

#[test]
fn every_key_has_its_row_in_the_documentation_and_no_other_has() {
    for case in cases() {
        let rows: Vec<String> = documented(&case).into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            rows,
            known_keys(&case),
            "docs/configuration.md, {}",
            case.heading
        );
    }
}

#[test]
fn every_documented_default_is_the_default() {
    let mut compared = 0;
    for case in cases() {
        let plain = format!("{}{}", case.before, case.required);
        let without = (case.parse)(&plain).unwrap_or_else(|problems| panic!("{plain}: {problems}"));
        for (key, default) in documented(&case) {
            // A default that is no value (`required`, `number of cores`) has no marks of code around it all.
            let Some(value) = default
                .strip_prefix('`')
                .and_then(|rest| rest.strip_suffix('`'))
            else {
                continue;
            };
            if value.contains('`') {
                continue;
            }
            let with = (case.parse)(&format!("{plain}{key} = {value}\n"));
            assert_eq!(
                with.unwrap_or_else(|problems| panic!("{problems}")),
                without,
                "{} = {value}",
                join(case.path, &key)
            );
            compared += 1;
        }
    }
    assert!(
        compared > 30,
        "only {compared} defaults were found in the documentation"
    );
}

#[test]
fn every_key_is_in_the_full_example() {
    for case in cases() {
        let example = read(&format!("deploy/examples/{}", case.example));
        for key in known_keys(&case) {
            let words = example.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            assert!(
                words.into_iter().any(|word| word == key),
                "{} is not in {}",
                join(case.path, &key),
                case.example
            );
        }
    }
}
