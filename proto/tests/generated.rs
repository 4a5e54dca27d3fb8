//! The checked-in code under `src/generated` is what `proto/*.proto` gives.
//!
//! Nothing is generated while the crate builds, so neither a protobuf compiler nor a build script is needed.
//! After changing a `.proto` file, refresh the code with the command below; this test fails until then.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

const REFRESH: &str = "UPDATE_GENERATED=1 cargo test -p forebay-proto --test generated";

const FILES: [&str; 4] = [
    "open_inference.proto",
    "health.proto",
    "orca_load_report.proto",
    "orca_service.proto",
];

/// Tensor data stays a slice of the buffer that it arrived in.
const SHARED_BYTES: [&str; 3] = [
    ".inference.ModelInferRequest.raw_input_contents",
    ".inference.ModelInferResponse.raw_output_contents",
    ".inference.InferTensorContents.bytes_contents",
];

/// What the gateway asks of others and nobody asks of us.
const CLIENT_FILES: [&str; 1] = ["etcd.proto"];

/// What reads a model's configuration as text goes by this.
const MODEL_CONFIG: (&str, &str) = ("model_config.proto", "model_config.binpb");

fn generate(into: &Path) {
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut compiler = protox::Compiler::new([&include]).unwrap();
    let described = compiler.open_file(MODEL_CONFIG.0).unwrap();
    let text_format = described.encode_file_descriptor_set();
    fs::write(into.join(MODEL_CONFIG.1), text_format).unwrap();
    let descriptors = protox::compile(FILES, [&include]).unwrap();
    let clients = protox::compile(CLIENT_FILES, [&include]).unwrap();
    tonic_prost_build::configure()
        .out_dir(into)
        .build_transport(false)
        .build_server(false)
        .emit_rerun_if_changed(false)
        .compile_fds(clients)
        .unwrap();
    tonic_prost_build::configure()
        .out_dir(into)
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .btree_map(".")
        .bytes(SHARED_BYTES[0])
        .bytes(SHARED_BYTES[1])
        .bytes(SHARED_BYTES[2])
        .compile_fds(descriptors)
        .unwrap();
}

/// Names of the Rust files in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn fresh_directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if directory.exists() {
        fs::remove_dir_all(&directory).unwrap();
    }
    fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
fn checked_in_code_is_what_the_proto_files_give() {
    let checked_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/generated");
    let fresh = fresh_directory("generated");
    generate(&fresh);

    if std::env::var_os("UPDATE_GENERATED").is_some() {
        for name in names(&checked_in) {
            fs::remove_file(checked_in.join(name)).unwrap();
        }
        for name in names(&fresh) {
            fs::copy(fresh.join(&name), checked_in.join(&name)).unwrap();
        }
    }

    assert_eq!(
        names(&checked_in),
        names(&fresh),
        "src/generated holds other files than the proto files give; refresh with: {REFRESH}"
    );
    for name in names(&fresh) {
        assert!(
            fs::read(checked_in.join(&name)).unwrap() == fs::read(fresh.join(&name)).unwrap(),
            "src/generated/{name} differs from what the proto files give; refresh with: {REFRESH}"
        );
    }
}
