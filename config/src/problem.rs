//! What is wrong in a configuration text: where, what stands there, and what would be right.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// TOML path such as `clusters[0].endpoints[1].address`; empty when the text is no TOML at all.
    pub path: String,
    /// Counted from 1; None for something that is missing from the file as a whole.
    pub line: Option<usize>,
    /// The offending value as it is written, or `nothing`, or `an unknown key`.
    pub found: String,
    /// What would be right, such as `an integer from 1 to 10`.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "found {}, expected {}", self.found, self.expected)
    }
}

/// At least one problem, in the order of the lines. Displays one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_where_what_and_what_would_be_right() {
        let problem = Problem {
            path: "routes[1].retry.attempts".into(),
            line: Some(12),
            found: "0".into(),
            expected: "an integer from 1 to 10".into(),
        };
        let nowhere = Problem {
            path: String::new(),
            line: None,
            ..problem.clone()
        };
        assert_eq!(
            Problems(vec![problem, nowhere]).to_string(),
            "line 12: routes[1].retry.attempts: found 0, expected an integer from 1 to 10\n\
             found 0, expected an integer from 1 to 10"
        );
    }
}
