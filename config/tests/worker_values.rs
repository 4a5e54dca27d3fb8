//! What right files of the worker mean: defaults, layers, and the forms that values are kept in.

#![expect(clippy::panic, reason = "tests fail by panicking")]

use std::path::PathBuf;
use std::time::Duration;

use forebay_config::worker::{
    Cuda, Model, ModelControl, Overrides, Provider, VersionPolicy, Worker, WorkerTls,
};

fn worker(text: &str) -> Worker {
    Worker::parse(text).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn the_smallest_worker_is_the_default_one() {
    let smallest = worker("repository = \"/models\"\n");
    assert_eq!(smallest, Worker::default_for(PathBuf::from("/models")));
    assert_eq!(smallest.listen, "0.0.0.0:8001".parse().unwrap());
    assert_eq!(smallest.http_listen, Some("0.0.0.0:8000".parse().unwrap()));
    assert_eq!((smallest.onnxruntime, smallest.threads), (None, None));
    assert_eq!(
        (smallest.max_message_bytes, smallest.drain_timeout),
        (64 << 20, Duration::from_secs(30))
    );
    assert_eq!(smallest.max_body_bytes, 2 << 30);
    assert_eq!(smallest.telemetry.service_name, "forebay-worker");
    assert_eq!(
        smallest.defaults,
        Model {
            max_batch_size: 32,
            max_queue_delay: Duration::ZERO,
            max_queue_size: 1024,
            instances: 1,
            provider: Provider::Auto,
            default_timeout: None,
            learn_batch_size: true,
            ..Model::default()
        }
    );
    assert!(smallest.models.is_empty());
}

#[test]
fn models_stand_on_the_defaults() {
    let worker = worker(
        "repository = \"models\"\nhttp_listen = false\n[defaults]\nmax_batch_size = 8\ndefault_timeout = \"2s\"\n\
         [models.a]\ninstances = 2\n[models.\"b.1\"]\nmax_batch_size = 1\ndefault_timeout = false\nprovider = \"cuda\"\n",
    );
    assert_eq!(worker.http_listen, None);
    let defaults = Model {
        max_batch_size: 8,
        default_timeout: Some(Duration::from_secs(2)),
        ..Model::default()
    };
    assert_eq!(
        worker.model("a"),
        Model {
            instances: 2,
            ..defaults.clone()
        }
    );
    assert_eq!(
        worker.model("b.1"),
        Model {
            max_batch_size: 1,
            default_timeout: None,
            provider: Provider::Cuda,
            ..defaults.clone()
        }
    );
    assert_eq!(worker.model("unnamed"), defaults);
    assert_eq!(worker.defaults, defaults);
}

#[test]
fn what_a_models_folder_says_stands_between_defaults_and_models() {
    let worker = worker(
        "repository = \"models\"\n[defaults]\nmax_batch_size = 8\nmax_queue_size = 7\n\
         [models.a]\nmax_queue_size = 9\n",
    );
    let said = Overrides {
        max_batch_size: Some(4),
        max_queue_size: Some(5),
        ..Overrides::default()
    };
    let model = worker.model_over("a", said.over(worker.defaults.clone()));
    assert_eq!((model.max_batch_size, model.max_queue_size), (4, 9));
}

fn model(keys: &str) -> Model {
    worker(&format!("repository = \"/models\"\n[models.a]\n{keys}")).model("a")
}

#[test]
fn versions_have_three_forms() {
    let versions = |text: &str| model(&format!("versions = {text}\n")).versions;
    assert_eq!(versions("\"all\""), VersionPolicy::All);
    assert_eq!(versions("{ latest = 2 }"), VersionPolicy::Latest(2));
    assert_eq!(versions("[3, 1]"), VersionPolicy::Specific(vec![1, 3]));
}

#[test]
fn who_names_no_priority_goes_last() {
    let priority = |keys: &str| {
        let model = model(keys);
        (model.priority_levels, model.default_priority)
    };
    assert_eq!(priority(""), (0, 0));
    assert_eq!(priority("priority_levels = 4\n"), (4, 4));
    assert_eq!(
        priority("priority_levels = 4\ndefault_priority = 2\n"),
        (4, 2)
    );
}

#[test]
fn options_of_providers_become_text() {
    let options = model(
        "[models.a.cuda]\nmemory_limit = \"2GiB\"\ngraphs = true\ntf32 = false\n\
         [models.a.tensorrt]\ntrt_fp16_enable = true\ntrt_max_workspace_size = 1073741824\n\
         [models.a.openvino]\ndevice_type = \"CPU\"\nhint = 0.5\n",
    )
    .provider_options;
    let cuda = Cuda {
        memory_limit_bytes: Some(2 << 30),
        graphs: true,
        tf32: false,
    };
    assert_eq!(options.cuda, cuda);
    let pairs = |table: &std::collections::BTreeMap<String, String>| -> Vec<(String, String)> {
        table.clone().into_iter().collect()
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(
        pairs(&options.tensorrt),
        [
            pair("trt_fp16_enable", "true"),
            pair("trt_max_workspace_size", "1073741824")
        ]
    );
    assert_eq!(
        pairs(&options.openvino),
        [pair("device_type", "CPU"), pair("hint", "0.5")]
    );
}

#[test]
fn batching_keys_are_kept_as_written() {
    let model = model(
        "preferred_batch_sizes = [4, 16]\nlatency_target = \"50ms\"\nwarm_up = false\n\
         response_cache = \"64MiB\"\nlabels = { scores = \"l.txt\" }\ndevices = [1, 0]\nthreads = 2\n\
         [models.a.padding]\ninputs = { input_ids = 0, attention_mask = 0, bias = -1.5 }\n\
         outputs = [\"last_hidden_state\"]\nbuckets = [32, 64]\n",
    );
    assert_eq!(model.preferred_batch_sizes, [4, 16]);
    assert_eq!(model.latency_target, Some(Duration::from_millis(50)));
    assert!(!model.warm_up);
    assert_eq!(model.response_cache_bytes, 64 << 20);
    assert_eq!((model.devices, model.threads), (vec![1, 0], Some(2)));
    assert_eq!(model.labels["scores"], std::path::Path::new("l.txt"));
    let padding = model.padding.expect("padding is written");
    assert_eq!(padding.inputs["bias"], -1.5);
    assert_eq!(padding.inputs.len(), 3);
    assert_eq!(padding.outputs, ["last_hidden_state"]);
    assert_eq!(padding.buckets, [32, 64]);
}

#[test]
fn who_loads_models() {
    let control = |keys: &str| worker(&format!("repository = \"/models\"\n{keys}")).model_control;
    let poll = |interval| ModelControl::Poll { interval };
    assert_eq!(control(""), ModelControl::None);
    assert_eq!(
        control("model_control = \"poll\"\n"),
        poll(Duration::from_secs(5))
    );
    assert_eq!(
        control("model_control = \"poll\"\npoll_interval = \"1m\"\n"),
        poll(Duration::from_secs(60))
    );
    let explicit = |names: Option<&[&str]>| ModelControl::Explicit {
        at_start: names.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
    };
    assert_eq!(control("model_control = \"explicit\"\n"), explicit(None));
    assert_eq!(
        control("model_control = \"explicit\"\nload_at_start = []\n"),
        explicit(Some(&[]))
    );
    assert_eq!(
        control("model_control = \"explicit\"\nload_at_start = [\"b\", \"a\"]\n"),
        explicit(Some(&["a", "b"]))
    );
}

#[test]
fn who_may_talk_to_the_worker() {
    let worker = worker(
        "repository = \"/models\"\nrepository_token_file = \"/run/token\"\nmemory_budget = \"4GiB\"\n\
         [tls]\ncertificate = \"a.pem\"\nkey = \"a.key\"\nclient_ca = \"ca.pem\"\n",
    );
    let tls = WorkerTls {
        certificate: "a.pem".into(),
        key: "a.key".into(),
        client_ca: Some("ca.pem".into()),
    };
    assert_eq!(worker.tls, Some(tls));
    assert_eq!(worker.repository_token_file, Some("/run/token".into()));
    assert_eq!(worker.memory_budget_bytes, Some(4 << 30));
}
