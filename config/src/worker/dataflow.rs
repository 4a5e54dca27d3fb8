//! Which tensor goes where in an ensemble, and whether it can.
//!
//! A tensor has one maker: the caller or one step. The order of the steps follows from that and not from the
//! order in which they are written; steps that do not need one another are free to run at the same time.

use std::collections::BTreeMap;
use std::fmt;

/// Names of a step's own inputs and outputs → tensors of the ensemble.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports {
    pub inputs: BTreeMap<String, String>,
    pub outputs: BTreeMap<String, String>,
}

/// Tensors by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataflow {
    /// The name of each.
    pub tensors: Vec<String>,
    pub inputs: Vec<usize>,
    pub outputs: Vec<usize>,
    /// As they are written.
    pub steps: Vec<Wiring>,
    /// Numbers of the steps, each after those that it needs.
    pub order: Vec<usize>,
}

/// Ports and tensors of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wiring {
    pub takes: Vec<(String, usize)>,
    pub makes: Vec<(String, usize)>,
}

/// Where something does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Input(usize),
    Output(usize),
    StepInput { step: usize, port: String },
    StepOutput { step: usize, port: String },
    Step(usize),
}

/// `expected`: what would be right there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowError {
    pub place: Place,
    pub expected: String,
}

impl fmt::Display for FlowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Input(number) => write!(f, "input {}", number + 1)?,
            Place::Output(number) => write!(f, "output {}", number + 1)?,
            Place::StepInput { step, port } => write!(f, "step {}: input '{port}'", step + 1)?,
            Place::StepOutput { step, port } => write!(f, "step {}: output '{port}'", step + 1)?,
            Place::Step(step) => write!(f, "step {}", step + 1)?,
        }
        write!(f, ": expected {}", self.expected)
    }
}

impl Dataflow {
    /// Empty `inputs` stand for every tensor that a step takes and none makes, empty `outputs` for every
    /// tensor that a step makes and none takes.
    ///
    /// # Errors
    /// Everything that does not fit.
    pub fn of(
        inputs: &[String],
        outputs: &[String],
        steps: &[&Ports],
    ) -> Result<Self, Vec<FlowError>> {
        let mut errors = Vec::new();
        let makers = makers(inputs, steps, &mut errors);
        let mut numbers = Numbers::default();
        let wired: Vec<Wiring> = steps.iter().map(|ports| numbers.wiring(ports)).collect();
        let mut inputs: Vec<usize> = inputs.iter().map(|name| numbers.of(name)).collect();
        let made = |tensor: &str| makers.contains_key(tensor);
        let taken = |tensor: usize| {
            let mut takes = wired.iter().flat_map(|step| &step.takes);
            takes.any(|(_, taken)| *taken == tensor)
        };
        if inputs.is_empty() {
            for (_, tensor) in wired.iter().flat_map(|step| &step.takes) {
                if !made(&numbers.names[*tensor]) && !inputs.contains(tensor) {
                    inputs.push(*tensor);
                }
            }
        } else {
            errors.extend(strangers(steps, &makers));
            for (number, tensor) in inputs.iter().enumerate() {
                if !taken(*tensor) {
                    errors.push(FlowError {
                        place: Place::Input(number),
                        expected: "a tensor that a step takes".to_owned(),
                    });
                }
            }
        }
        let made_by_steps = wired.iter().flat_map(|step| &step.makes).map(|made| made.1);
        let outputs: Vec<usize> = if outputs.is_empty() {
            made_by_steps.filter(|tensor| !taken(*tensor)).collect()
        } else {
            for (number, name) in outputs.iter().enumerate() {
                if !made(name) {
                    errors.push(FlowError {
                        place: Place::Output(number),
                        expected: format!("a tensor that a step makes{}", listed(&makers)),
                    });
                }
            }
            outputs.iter().map(|name| numbers.of(name)).collect()
        };
        let order = order(&wired).unwrap_or_else(|circle| {
            let mut names: Vec<String> = circle.iter().map(|step| (step + 1).to_string()).collect();
            let last = names.pop().unwrap_or_default();
            errors.push(FlowError {
                place: Place::Step(circle[0]),
                expected: match names.is_empty() {
                    true => "a step that does not wait for its own output".to_owned(),
                    false => format!(
                        "steps in some order, but {} and {last} wait for each other",
                        names.join(", ")
                    ),
                },
            });
            Vec::new()
        });
        if errors.is_empty() {
            let used = leading_to(&wired, &order, &outputs);
            let vain = (0..wired.len()).filter(|step| !used[*step]);
            errors.extend(vain.map(|step| FlowError {
                place: Place::Step(step),
                expected: "a step that an output of the ensemble needs".to_owned(),
            }));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            tensors: numbers.names,
            inputs,
            outputs,
            steps: wired,
            order,
        })
    }

    /// The steps that `outputs`, tensors by number, need.
    pub fn needed(&self, outputs: &[usize]) -> Vec<bool> {
        leading_to(&self.steps, &self.order, outputs)
    }
}

#[derive(Default)]
struct Numbers {
    names: Vec<String>,
}

impl Numbers {
    fn of(&mut self, name: &str) -> usize {
        let known = self.names.iter().position(|known| known == name);
        known.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        })
    }

    fn wiring(&mut self, ports: &Ports) -> Wiring {
        let mut wire = |ports: &BTreeMap<String, String>| -> Vec<(String, usize)> {
            let wire = |(port, tensor): (&String, &String)| (port.clone(), self.of(tensor));
            ports.iter().map(wire).collect()
        };
        Wiring {
            takes: wire(&ports.inputs),
            makes: wire(&ports.outputs),
        }
    }
}

/// Who makes each tensor, as a person would say it; a second maker is an error.
fn makers<'a>(
    inputs: &'a [String],
    steps: &[&'a Ports],
    errors: &mut Vec<FlowError>,
) -> BTreeMap<&'a str, String> {
    let mut makers = BTreeMap::new();
    let given = inputs.iter().enumerate().map(|(number, name)| {
        let said = "an input of the ensemble".to_owned();
        (name, Place::Input(number), said)
    });
    let made = steps.iter().enumerate().flat_map(|(step, ports)| {
        ports.outputs.iter().map(move |(port, tensor)| {
            let place = Place::StepOutput {
                step,
                port: port.clone(),
            };
            (tensor, place, format!("an output of step {}", step + 1))
        })
    });
    for (tensor, place, said) in given.chain(made) {
        match makers.get(tensor.as_str()) {
            Some(first) => errors.push(FlowError {
                place,
                expected: format!("a name that is not taken, as {first} has it"),
            }),
            None => _ = makers.insert(tensor.as_str(), said),
        }
    }
    makers
}

/// Tensors that are taken and that nobody makes.
fn strangers(steps: &[&Ports], makers: &BTreeMap<&str, String>) -> Vec<FlowError> {
    let mut errors = Vec::new();
    for (step, ports) in steps.iter().enumerate() {
        for (port, tensor) in &ports.inputs {
            if !makers.contains_key(tensor.as_str()) {
                errors.push(FlowError {
                    place: Place::StepInput {
                        step,
                        port: port.clone(),
                    },
                    expected: format!(
                        "an input of the ensemble or a tensor that a step makes{}",
                        listed(makers)
                    ),
                });
            }
        }
    }
    errors
}

fn listed(makers: &BTreeMap<&str, String>) -> String {
    let names: Vec<&str> = makers.keys().copied().collect();
    format!(" ({})", names.join(", "))
}

/// Numbers of the steps, each after those that it needs, or those that go round in a circle.
fn order(steps: &[Wiring]) -> Result<Vec<usize>, Vec<usize>> {
    let mut order = Vec::with_capacity(steps.len());
    let mut left: Vec<usize> = (0..steps.len()).collect();
    let feeds = |from: usize, to: usize| {
        let makes = |tensor: &usize| steps[from].makes.iter().any(|(_, made)| made == tensor);
        steps[to].takes.iter().any(|(_, tensor)| makes(tensor))
    };
    while let Some(at) = left
        .iter()
        .position(|step| !left.iter().any(|other| feeds(*other, *step)))
    {
        order.push(left.remove(at));
    }
    // Who only waits for the circle is not part of it.
    while let Some(at) = left
        .iter()
        .position(|step| !left.iter().any(|other| feeds(*step, *other)))
    {
        left.remove(at);
    }
    if left.is_empty() {
        Ok(order)
    } else {
        Err(left)
    }
}

/// Which steps are on a way to `outputs`.
fn leading_to(steps: &[Wiring], order: &[usize], outputs: &[usize]) -> Vec<bool> {
    let mut used = vec![false; steps.len()];
    let mut wanted: Vec<usize> = outputs.to_vec();
    for step in order.iter().rev() {
        let wiring = &steps[*step];
        if wiring.makes.iter().any(|(_, made)| wanted.contains(made)) {
            used[*step] = true;
            wanted.extend(wiring.takes.iter().map(|(_, taken)| *taken));
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(inputs: &[&str], outputs: &[&str]) -> Ports {
        let map = |tensors: &[&str]| {
            let port =
                |(number, tensor): (usize, &&str)| (format!("p{number}"), tensor.to_string());
            tensors.iter().enumerate().map(port).collect()
        };
        Ports {
            inputs: map(inputs),
            outputs: map(outputs),
        }
    }

    fn flow(inputs: &[&str], outputs: &[&str], steps: &[Ports]) -> Result<Dataflow, Vec<String>> {
        let own = |names: &[&str]| {
            names
                .iter()
                .map(|name| name.to_string())
                .collect::<Vec<_>>()
        };
        let steps: Vec<&Ports> = steps.iter().collect();
        Dataflow::of(&own(inputs), &own(outputs), &steps)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    fn names(flow: &Dataflow, tensors: &[usize]) -> Vec<String> {
        tensors
            .iter()
            .map(|tensor| flow.tensors[*tensor].clone())
            .collect()
    }

    #[test]
    fn the_order_follows_from_the_tensors() {
        let steps = [
            ports(&["left", "right"], &["sum"]),
            ports(&["x"], &["left"]),
            ports(&["x"], &["right"]),
        ];
        let flow = flow(&["x"], &["sum"], &steps).unwrap();
        assert_eq!(flow.order, [1, 2, 0]);
        assert_eq!(names(&flow, &flow.inputs), ["x"]);
        assert_eq!(names(&flow, &flow.outputs), ["sum"]);
    }

    #[test]
    fn inputs_and_outputs_are_what_is_left_over() {
        let steps = [
            ports(&["text"], &["ids", "mask"]),
            ports(&["ids", "mask", "bias"], &["tokens"]),
            ports(&["tokens", "mask"], &["embedding"]),
        ];
        let flow = flow(&[], &[], &steps).unwrap();
        assert_eq!(names(&flow, &flow.inputs), ["text", "bias"]);
        assert_eq!(names(&flow, &flow.outputs), ["embedding"]);
    }

    #[test]
    fn only_what_an_output_needs_is_needed() {
        let steps = [
            ports(&["x"], &["a"]),
            ports(&["a"], &["b"]),
            ports(&["a"], &["c"]),
        ];
        let flow = flow(&["x"], &["b", "c"], &steps).unwrap();
        assert_eq!(flow.needed(&flow.outputs), [true, true, true]);
        assert_eq!(flow.needed(&flow.outputs[1..]), [true, false, true]);
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_place() {
        let told = |inputs: &[&str], outputs: &[&str], steps: &[Ports]| {
            flow(inputs, outputs, steps).unwrap_err()
        };
        let [one, circle] = [[ports(&["x"], &["y"])], [ports(&["x", "b"], &["a"])]];
        assert_eq!(
            told(&["z"], &["y"], &one),
            [
                "step 1: input 'p0': expected an input of the ensemble or a tensor that a step makes (y, z)",
                "input 1: expected a tensor that a step takes",
            ]
        );
        assert_eq!(
            told(&["x"], &["w"], &one),
            ["output 1: expected a tensor that a step makes (x, y)"]
        );
        let [step] = circle;
        assert_eq!(
            told(
                &["x"],
                &["d"],
                &[step.clone(), ports(&["a"], &["b"]), ports(&["a"], &["d"])]
            ),
            ["step 1: expected steps in some order, but 1 and 2 wait for each other"]
        );
        assert_eq!(
            told(&["x"], &["a"], &[ports(&["x", "a"], &["a"])]),
            ["step 1: expected a step that does not wait for its own output"]
        );
        assert_eq!(
            told(
                &["x"],
                &["y"],
                &[ports(&["x"], &["y"]), ports(&["x"], &["y"])]
            ),
            [
                "step 2: output 'p0': expected a name that is not taken, as an output of step 1 has it"
            ]
        );
        assert_eq!(
            told(&["x"], &["x"], &[ports(&["x"], &["x"])]),
            [
                "step 1: output 'p0': expected a name that is not taken, as an input of the ensemble has it",
                "step 1: expected a step that does not wait for its own output",
            ]
        );
        assert_eq!(
            told(
                &["x"],
                &["y"],
                &[ports(&["x"], &["y"]), ports(&["y"], &["z"])]
            ),
            ["step 2: expected a step that an output of the ensemble needs"]
        );
    }
}
