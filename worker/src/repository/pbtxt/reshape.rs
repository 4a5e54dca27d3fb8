//! Shapes that clients see, and those that the model sees, where the file says that they differ.
//!
//! Only shapes change; the elements of a tensor stay where they are. Sizes that are variable are the same ones in
//! both shapes, in the same order.

use super::signature::{Declared, DeclaredTensor};
use crate::inference::{Signature, Tensor, TensorSpec};

/// By index in the signature; None: the same shape on both sides.
#[derive(Debug, Default)]
pub struct Reshapes {
    inputs: Vec<Option<Reshape>>,
    outputs: Vec<Option<Reshape>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Reshape {
    /// Both without the rows; −1 stands for any size.
    client: Vec<i64>,
    model: Vec<i64>,
    rows: bool,
}

impl Reshapes {
    /// `signature`: the model's, that `declared` was applied to. With it comes the signature that clients see.
    pub fn new(declared: &Declared, signature: &Signature) -> (Self, Signature) {
        let rows = signature.batched;
        let of = |specs: &[TensorSpec], declared: &[DeclaredTensor]| -> Vec<Option<Reshape>> {
            let one = |spec: &TensorSpec| {
                let tensor = declared.iter().find(|tensor| tensor.name == spec.name)?;
                let is_scalar = spec.shape.as_ref().is_some_and(Vec::is_empty);
                let scalar = (is_scalar && !rows).then(Vec::new);
                Some(Reshape {
                    client: tensor.dims.clone(),
                    model: scalar.or_else(|| tensor.reshape.clone())?,
                    rows,
                })
            };
            specs.iter().map(one).collect()
        };
        let reshapes = Self {
            inputs: of(&signature.inputs, &declared.inputs),
            outputs: of(&signature.outputs, &declared.outputs),
        };
        let mut seen = signature.clone();
        let pairs = seen.inputs.iter_mut().zip(&reshapes.inputs);
        for (spec, reshape) in pairs.chain(seen.outputs.iter_mut().zip(&reshapes.outputs)) {
            if let Some(reshape) = reshape {
                let mut shape: Vec<i64> = rows.then_some(-1).into_iter().collect();
                shape.extend(&reshape.client);
                spec.shape = Some(shape);
            }
        }
        (reshapes, seen)
    }

    /// Makes a client's tensor the model's. It was checked against the signature that clients see.
    pub fn input(&self, index: usize, tensor: &mut Tensor) {
        if let Some(Some(reshape)) = self.inputs.get(index) {
            convert(&mut tensor.shape, reshape, &reshape.client, &reshape.model);
        }
    }

    pub fn changes_outputs(&self) -> bool {
        self.outputs.iter().any(Option::is_some)
    }

    /// Makes the model's tensor a client's. One that is not shaped as the file says stays as it is.
    pub fn output(&self, index: usize, tensor: &mut Tensor) {
        if let Some(Some(reshape)) = self.outputs.get(index) {
            convert(&mut tensor.shape, reshape, &reshape.model, &reshape.client);
        }
    }
}

fn convert(shape: &mut Vec<i64>, reshape: &Reshape, from: &[i64], to: &[i64]) {
    let (rows, rest) = shape.split_at(usize::from(reshape.rows).min(shape.len()));
    if rest.len() != from.len() {
        return;
    }
    let fits = |(size, said): (&i64, &i64)| *said == -1 || size == said;
    if !rest.iter().zip(from).all(fits) {
        return;
    }
    let variable = rest.iter().zip(from).filter(|(_, said)| **said == -1);
    let mut variable = variable.map(|(size, _)| *size);
    let mut converted = rows.to_vec();
    for size in to {
        let size = if *size == -1 {
            variable.next()
        } else {
            Some(*size)
        };
        let Some(size) = size else { return };
        converted.push(size);
    }
    *shape = converted;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use forebay_proto::tensor::DataType;

    use super::super::signature::Batching;
    use super::*;

    fn tensor(shape: &[i64]) -> Tensor {
        Tensor {
            datatype: DataType::Fp32,
            shape: shape.to_vec(),
            data: Bytes::new(),
        }
    }

    fn reshapes(
        rows: bool,
        dims: &[i64],
        model: &[i64],
        reshape: Option<&[i64]>,
    ) -> (Reshapes, Signature) {
        let declared = DeclaredTensor {
            name: "x".to_owned(),
            datatype: DataType::Fp32,
            dims: dims.to_vec(),
            reshape: reshape.map(<[i64]>::to_vec),
            optional: false,
        };
        let spec = TensorSpec {
            name: "x".to_owned(),
            datatype: DataType::Fp32,
            shape: Some(model.to_vec()),
            optional: false,
        };
        let signature = Signature {
            inputs: vec![spec.clone()],
            outputs: vec![spec],
            batched: rows,
        };
        let declared = Declared {
            batching: if rows {
                Batching::Rows(4)
            } else {
                Batching::None
            },
            inputs: vec![declared.clone()],
            outputs: vec![declared],
        };
        Reshapes::new(&declared, &signature)
    }

    #[test]
    fn there_and_back() {
        let (reshapes, seen) = reshapes(true, &[4, -1, 2], &[-1, -1, 8], Some(&[-1, 8]));
        assert_eq!(seen.inputs[0].shape, Some(vec![-1, 4, -1, 2]));
        let mut x = tensor(&[3, 4, 7, 2]);
        reshapes.input(0, &mut x);
        assert_eq!(x.shape, [3, 7, 8]);
        reshapes.output(0, &mut x);
        assert_eq!(x.shape, [3, 4, 7, 2]);
        assert!(reshapes.changes_outputs());
    }

    #[test]
    fn rows_without_more_dimensions_are_seen_as_vectors() {
        let (reshapes, seen) = reshapes(true, &[1], &[-1], Some(&[]));
        assert_eq!(seen.outputs[0].shape, Some(vec![-1, 1]));
        let mut x = tensor(&[5, 1]);
        reshapes.input(0, &mut x);
        assert_eq!(x.shape, [5]);
    }

    #[test]
    fn a_scalar_is_seen_as_the_file_says() {
        let (reshapes, seen) = reshapes(false, &[1, 1], &[], None);
        assert_eq!(seen.inputs[0].shape, Some(vec![1, 1]));
        let mut x = tensor(&[1, 1]);
        reshapes.input(0, &mut x);
        assert!(x.shape.is_empty());
    }

    #[test]
    fn what_is_shaped_otherwise_stays() {
        let (plain, seen) = reshapes(true, &[4], &[-1, 4], None);
        assert!(!plain.changes_outputs());
        assert_eq!(seen.inputs[0].shape, Some(vec![-1, 4]));
        let (reshapes, _) = reshapes(true, &[4, 2], &[-1, 8], Some(&[8]));
        for shape in [&[3, 9][..], &[3], &[]] {
            let mut y = tensor(shape);
            reshapes.output(0, &mut y);
            assert_eq!(y.shape, shape);
        }
    }
}
