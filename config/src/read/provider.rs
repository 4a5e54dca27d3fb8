//! The keys of a model that say where it runs: instances, provider, devices, options of each provider.

use std::collections::BTreeMap;

use super::{Keys, Read, Table, Value, all, names};
use crate::worker::{CudaOverrides, Device, Overrides, Provider};

const CUDA_KEYS: Keys = &["memory_limit", "graphs", "tf32"];

const PROVIDERS: [(&str, Provider); 5] = [
    ("cpu", Provider::Cpu),
    ("cuda", Provider::Cuda),
    ("tensorrt", Provider::TensorRt),
    ("openvino", Provider::OpenVino),
    ("auto", Provider::Auto),
];

/// More than any machine has; a larger number is a slip.
const HIGHEST_DEVICE: Device = 255;
const LEAST_MEMORY: u64 = 1 << 20;
const MOST_MEMORY: u64 = 1 << 50;

/// The fields that are read here; the others say nothing.
pub(super) fn placement(table: &Table<'_>) -> Read<Overrides> {
    let instances = table.optional("instances", |value| value.integer(1..=1024));
    let provider = table.optional("provider", |value| value.choice(&PROVIDERS));
    let devices = table.optional("devices", |value| devices(&value));
    let cuda = cuda(table);
    let tensorrt = table.or("tensorrt", BTreeMap::new(), |value| options(&value));
    let openvino = table.or("openvino", BTreeMap::new(), |value| options(&value));
    Ok(Overrides {
        instances: instances?,
        provider: provider?,
        devices: devices?,
        cuda: cuda?,
        tensorrt: tensorrt?,
        openvino: openvino?,
        ..Overrides::default()
    })
}

fn devices(value: &Value<'_>) -> Read<Vec<Device>> {
    let items = value.array("numbers of devices, such as [0, 1]")?;
    if items.is_empty() {
        return value.wrong("at least one device");
    }
    let numbers = all(items.iter().map(|item| item.integer(0..=HIGHEST_DEVICE)))?;
    names::unique("a number", items.into_iter().zip(numbers.iter().copied()))?;
    Ok(numbers)
}

fn cuda(model: &Table<'_>) -> Read<CudaOverrides> {
    let table = model.table("cuda", CUDA_KEYS)?;
    let memory_limit = table.optional("memory_limit", |value| match value.as_bool() {
        Some(false) => Ok(None),
        _ => value.bytes(LEAST_MEMORY..=MOST_MEMORY).map(Some),
    });
    let graphs = table.optional("graphs", |value| value.boolean());
    let tf32 = table.optional("tf32", |value| value.boolean());
    Ok(CudaOverrides {
        memory_limit_bytes: memory_limit?,
        graphs: graphs?,
        tf32: tf32?,
    })
}

/// Which keys there are is ONNX Runtime's to know: it refuses a wrong one when the model is loaded.
fn options(value: &Value<'_>) -> Read<BTreeMap<String, String>> {
    let entries = value.entries("a table of options of ONNX Runtime's provider")?;
    let read = all(entries.iter().map(|(key, value)| {
        if key.is_empty() || key.contains('\0') {
            return value.wrong("the name of an option as its key");
        }
        Ok(((*key).to_owned(), value.option()?))
    }));
    Ok(read?.into_iter().collect())
}
