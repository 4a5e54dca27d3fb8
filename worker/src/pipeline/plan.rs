//! What an ensemble takes and gives, worked out from its steps, and whether their tensors fit together.
//!
//! Names fit already (`forebay_config::worker::Dataflow`); here it is about datatypes and shapes. What an
//! ensemble declares may narrow what its steps say, never widen it.

use forebay_config::worker::{Dataflow, Declared, Wiring};
use forebay_proto::tensor::DataType;

use crate::inference::{Signature, TensorSpec};

/// What a step takes under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Any of these; the first where nothing else decides.
    pub datatypes: Vec<DataType>,
    /// −1 where any size is accepted. `None`: any shape.
    pub shape: Option<Vec<i64>>,
    /// The shape where any would do and nobody says which.
    pub usual: Option<Vec<i64>>,
    pub optional: bool,
}

/// What a step makes under one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    pub datatype: DataType,
    pub shape: Option<Vec<i64>>,
}

/// Tensors that a step is given, by its own names for them.
pub type Given<'a> = [(&'a str, &'a TensorSpec)];

/// A step, as far as its tensors go. Errors read on after the name of the step.
pub trait Typed {
    fn takes(&self, port: &str) -> Result<Expected, String>;
    fn makes(&self, port: &str, given: &Given<'_>) -> Result<Made, String>;
    /// Names that must be given.
    fn needs(&self) -> Vec<&str>;
    /// Dimension 0 of all its tensors is the batch axis.
    fn batched(&self) -> bool;
}

/// A step, and how messages call it.
pub struct Labelled<'a> {
    pub label: &'a str,
    pub step: &'a dyn Typed,
}

/// What an ensemble says of its own tensors.
#[derive(Debug, Clone, Copy)]
pub struct Declarations<'a> {
    pub inputs: &'a [Declared],
    pub outputs: &'a [Declared],
}

/// The signature of the whole.
///
/// # Errors
/// The first thing that does not fit, with the step where it shows.
pub fn signature(
    flow: &Dataflow,
    declared: Declarations<'_>,
    steps: &[Labelled<'_>],
) -> Result<Signature, String> {
    let mut tensors: Vec<Option<TensorSpec>> = vec![None; flow.tensors.len()];
    for tensor in &flow.inputs {
        tensors[*tensor] = Some(input(flow, *tensor, declared.inputs, steps)?);
    }
    for number in &flow.order {
        let (wiring, step) = (&flow.steps[*number], &steps[*number]);
        let told = |message: String| format!("{}: {message}", step.label);
        let made = check_step(wiring, step.step, &tensors).map_err(told)?;
        for (tensor, made) in made {
            tensors[tensor] = Some(TensorSpec {
                name: flow.tensors[tensor].clone(),
                datatype: made.datatype,
                shape: made.shape,
                optional: false,
            });
        }
    }
    let known = |tensor: &usize| {
        let spec = tensors[*tensor].clone();
        spec.ok_or_else(|| format!("nothing makes '{}'", flow.tensors[*tensor]))
    };
    let inputs: Vec<TensorSpec> = flow.inputs.iter().map(known).collect::<Result<_, _>>()?;
    let mut outputs: Vec<TensorSpec> = flow.outputs.iter().map(known).collect::<Result<_, _>>()?;
    for (declared, spec) in declared.outputs.iter().zip(&mut outputs) {
        narrow(spec, declared, "output")?;
    }
    let free_rows = |spec: &TensorSpec| {
        let shape = spec.shape.as_deref();
        spec.optional || shape.is_some_and(|shape| shape.first() == Some(&-1))
    };
    Ok(Signature {
        batched: share_rows(flow, &inputs, steps) && inputs.iter().chain(&outputs).all(free_rows),
        inputs,
        outputs,
    })
}

/// Whether the rows of every input and output are the same ones. Branches that nothing joins have their own.
fn share_rows(flow: &Dataflow, inputs: &[TensorSpec], steps: &[Labelled<'_>]) -> bool {
    let needed = flow
        .inputs
        .iter()
        .zip(inputs)
        .filter(|(_, spec)| !spec.optional);
    let mut ends: Vec<usize> = needed.map(|(tensor, _)| *tensor).collect();
    let Some(first) = ends.first().copied() else {
        return false;
    };
    ends.extend(&flow.outputs);
    let mut joined = vec![false; flow.tensors.len()];
    joined[first] = true;
    // A pass over the steps for each of them, as joining one may make another reachable.
    for wiring in flow.steps.iter().flat_map(|_| &flow.steps) {
        let tensors = || {
            wiring
                .takes
                .iter()
                .chain(&wiring.makes)
                .map(|(_, tensor)| *tensor)
        };
        if tensors().any(|tensor| joined[tensor]) {
            tensors().for_each(|tensor| joined[tensor] = true);
        }
    }
    steps.iter().all(|step| step.step.batched()) && ends.iter().all(|tensor| joined[*tensor])
}

/// What is asked of an input of the ensemble by all the steps that take it.
fn input(
    flow: &Dataflow,
    tensor: usize,
    declared: &[Declared],
    steps: &[Labelled<'_>],
) -> Result<TensorSpec, String> {
    let name = &flow.tensors[tensor];
    let declared = declared.iter().find(|declared| declared.name == *name);
    let mut spec: Option<TensorSpec> = None;
    let mut datatypes: Vec<DataType> = Vec::new();
    let mut usual = None;
    for (wiring, step) in flow.steps.iter().zip(steps) {
        for (port, taken) in &wiring.takes {
            if *taken != tensor {
                continue;
            }
            let told = |message: String| format!("{}: {message}", step.label);
            let expected = step.step.takes(port).map_err(told)?;
            usual = usual.or(expected.usual);
            let Some(spec) = &mut spec else {
                let shape = expected.shape;
                datatypes = expected.datatypes;
                spec = Some(TensorSpec {
                    name: name.clone(),
                    datatype: datatypes.first().copied().unwrap_or(DataType::Bytes),
                    shape,
                    optional: expected.optional,
                });
                continue;
            };
            datatypes.retain(|datatype| expected.datatypes.contains(datatype));
            let shape = meet(spec.shape.as_deref(), expected.shape.as_deref());
            let (Some(datatype), Ok(shape)) = (datatypes.first(), shape) else {
                return Err(told(format!(
                    "input '{port}' cannot be '{name}', as another step takes that as {}",
                    shown(spec)
                )));
            };
            spec.datatype = *datatype;
            spec.shape = shape;
            spec.optional &= expected.optional;
        }
    }
    let mut spec = spec.ok_or_else(|| format!("no step takes '{name}'"))?;
    if let Some(declared) = declared {
        let said = declared.datatype.as_deref().and_then(DataType::parse);
        if let Some(said) = said.filter(|said| datatypes.contains(said)) {
            spec.datatype = said;
        }
        narrow(&mut spec, declared, "input")?;
    }
    spec.shape = spec.shape.or(usual);
    Ok(spec)
}

fn check_step(
    wiring: &Wiring,
    step: &dyn Typed,
    tensors: &[Option<TensorSpec>],
) -> Result<Vec<(usize, Made)>, String> {
    let mut given: Vec<(&str, &TensorSpec)> = Vec::with_capacity(wiring.takes.len());
    for (port, tensor) in &wiring.takes {
        let Some(spec) = &tensors[*tensor] else {
            return Err(format!("nothing makes input '{port}'"));
        };
        let expected = step.takes(port)?;
        let fits = expected.datatypes.contains(&spec.datatype)
            && meet(spec.shape.as_deref(), expected.shape.as_deref()).is_ok();
        if !fits {
            let names: Vec<&str> = expected.datatypes.iter().map(|kind| kind.name()).collect();
            return Err(format!(
                "input '{port}' takes {}{}, but '{}' is {}",
                names.join(" or "),
                dimensions(expected.shape.as_deref()),
                spec.name,
                shown(spec)
            ));
        }
        if spec.optional && !expected.optional {
            return Err(format!(
                "input '{port}' is needed, but '{}' may be left out",
                spec.name
            ));
        }
        given.push((port, spec));
    }
    for port in step.needs() {
        if !given.iter().any(|(name, _)| *name == port) {
            return Err(format!("input '{port}' is not given"));
        }
    }
    let make = |(port, tensor): &(String, usize)| Ok((*tensor, step.makes(port, &given)?));
    wiring.makes.iter().map(make).collect()
}

/// Takes over what is declared, if it fits. −1 leaves a dimension at what the steps make it.
fn narrow(spec: &mut TensorSpec, declared: &Declared, side: &str) -> Result<(), String> {
    let said = declared.datatype.as_deref();
    if said.is_some_and(|said| DataType::parse(said) != Some(spec.datatype)) {
        return Err(format!(
            "{side} '{}' is declared as {}, but the steps make it {}",
            declared.name,
            said.unwrap_or_default(),
            shown(spec)
        ));
    }
    let Some(shape) = &declared.shape else {
        return Ok(());
    };
    spec.shape = meet(spec.shape.as_deref(), Some(shape)).map_err(|()| {
        format!(
            "{side} '{}' is declared with the shape{}, but the steps make it {}",
            declared.name,
            dimensions(Some(shape)),
            shown(spec)
        )
    })?;
    Ok(())
}

/// What is in both shapes; an error if nothing is.
fn meet(one: Option<&[i64]>, other: Option<&[i64]>) -> Result<Option<Vec<i64>>, ()> {
    let (Some(one), Some(other)) = (one, other) else {
        return Ok(one.or(other).map(<[i64]>::to_vec));
    };
    if one.len() != other.len() {
        return Err(());
    }
    let both = one.iter().zip(other).map(|pair| match pair {
        (-1, size) | (size, -1) => Ok(*size),
        (one, other) if one == other => Ok(*one),
        _ => Err(()),
    });
    both.collect::<Result<_, _>>().map(Some)
}

fn shown(spec: &TensorSpec) -> String {
    format!("{}{}", spec.datatype, dimensions(spec.shape.as_deref()))
}

fn dimensions(shape: Option<&[i64]>) -> String {
    shape.map_or_else(String::new, |shape| format!(" {shape:?}"))
}

impl Typed for Signature {
    fn takes(&self, port: &str) -> Result<Expected, String> {
        let spec = self.inputs.iter().find(|spec| spec.name == port);
        let spec =
            spec.ok_or_else(|| format!("it has no input '{port}'{}", names(&self.inputs)))?;
        Ok(Expected {
            datatypes: vec![spec.datatype],
            shape: spec.shape.clone(),
            usual: None,
            optional: spec.optional,
        })
    }

    fn makes(&self, port: &str, _: &Given<'_>) -> Result<Made, String> {
        let spec = self.outputs.iter().find(|spec| spec.name == port);
        let spec =
            spec.ok_or_else(|| format!("it has no output '{port}'{}", names(&self.outputs)))?;
        Ok(Made {
            datatype: spec.datatype,
            shape: spec.shape.clone(),
        })
    }

    fn needs(&self) -> Vec<&str> {
        let needed = self.inputs.iter().filter(|spec| !spec.optional);
        needed.map(|spec| spec.name.as_str()).collect()
    }

    fn batched(&self) -> bool {
        self.batched
    }
}

fn names(specs: &[TensorSpec]) -> String {
    let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
    format!(", only {}", names.join(", "))
}

#[cfg(test)]
mod tests;
