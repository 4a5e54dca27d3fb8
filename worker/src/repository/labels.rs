//! Names of classes: a file beside the model's versions with one label a line, the first for class 0.
//!
//! As in Triton an empty line is a label too, but for a last one that only ends the file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::inference::Signature;

/// Labels by output, none for an output without a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, Vec<String>>);

impl Labels {
    /// Reads `files`, paths from `folder`, by output. Blocks.
    ///
    /// # Errors
    /// A file that cannot be read as text, or an output that the model does not have.
    pub fn read(
        folder: &Path,
        files: &BTreeMap<String, PathBuf>,
        signature: &Signature,
    ) -> Result<Labels, String> {
        let mut labels = BTreeMap::new();
        for (output, file) in files {
            if !signature.outputs.iter().any(|spec| spec.name == *output) {
                let names: Vec<&str> = signature
                    .outputs
                    .iter()
                    .map(|spec| &spec.name[..])
                    .collect();
                return Err(format!(
                    "labels are given for output '{output}', but the model has {}",
                    names.join(", ")
                ));
            }
            let path = folder.join(file);
            let text = std::fs::read_to_string(&path).map_err(|error| {
                format!(
                    "cannot read the labels of output '{output}' from '{}': {error}",
                    path.display()
                )
            })?;
            labels.insert(output.clone(), lines(&text));
        }
        Ok(Labels(labels))
    }

    pub fn of(&self, output: &str) -> &[String] {
        self.0.get(output).map_or(&[], Vec::as_slice)
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake;

    fn read(output: &str, file: &Path) -> Result<Labels, String> {
        let files = BTreeMap::from([(output.to_owned(), file.to_owned())]);
        Labels::read(Path::new("/nowhere"), &files, &fake::signature())
    }

    #[test]
    fn every_line_is_a_label() {
        assert_eq!(lines("cat\r\n\ndog \n"), ["cat", "", "dog"]);
        assert_eq!(lines("cat\ndog"), ["cat", "dog"]);
    }

    #[test]
    fn labels_belong_to_an_output_of_the_model() {
        let file = std::env::temp_dir().join(format!("forebay-labels-{}", std::process::id()));
        std::fs::write(&file, "a\nb\n").unwrap();
        let labels = read("y", &file).unwrap();
        let unknown = read("z", &file).unwrap_err();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(labels.of("y"), ["a", "b"]);
        assert!(labels.of("x").is_empty());
        assert_eq!(
            unknown,
            "labels are given for output 'z', but the model has y"
        );
        let missing = read("y", Path::new("labels.txt")).unwrap_err();
        assert!(missing.contains("'/nowhere/labels.txt'"), "{missing}");
    }
}
