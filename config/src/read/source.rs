//! Places in the text: their lines, and what stands there.

use std::ops::Range;

pub(super) struct Source<'a> {
    text: &'a str,
    /// Offsets of the newlines, so that a long file with many problems is not counted again for each.
    newlines: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self {
            text,
            newlines: newlines.map(|(offset, _)| offset).collect(),
        }
    }

    pub(super) fn end(&self) -> Range<usize> {
        self.text.len()..self.text.len()
    }

    /// Counted from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.newlines.partition_point(|newline| *newline < offset) + 1
    }

    /// What the text says there, fit for one line of a message: cut if long, without control characters.
    pub(super) fn excerpt(&self, span: Range<usize>) -> String {
        const LIMIT: usize = 60;
        let written = self.text.get(span).unwrap_or_default();
        let first_line = written.lines().next().unwrap_or_default();
        let shown = |c: char| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        };
        let short: String = first_line.chars().take(LIMIT).map(shown).collect();
        let is_cut = first_line.chars().count() > LIMIT || first_line.len() < written.len();
        if is_cut { format!("{short}…") } else { short }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_begin_after_newlines() {
        let source = Source::new("a\nbc\n\nd");
        let lines: Vec<usize> = (0..=source.end().end)
            .map(|offset| source.line(offset))
            .collect();
        assert_eq!(lines, [1, 1, 2, 2, 2, 3, 4, 4]);
    }

    #[test]
    fn excerpts_fit_one_line() {
        let excerpt = |text: &str| Source::new(text).excerpt(0..text.len());
        assert_eq!(excerpt("short"), "short");
        assert_eq!(excerpt("\u{1b}[31m"), "\u{fffd}[31m");
        assert_eq!(excerpt("'a\nb'"), "'a…");
        assert_eq!(excerpt(&"x".repeat(200)).chars().count(), 61);
        assert_eq!(Source::new("é").excerpt(1..2), "");
    }
}
