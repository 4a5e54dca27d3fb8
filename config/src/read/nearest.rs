//! "Did you mean": the nearest of some known words.
//!
//! Nearness counts insertions, deletions, substitutions and swaps of neighbours (the "optimal string
//! alignment" distance): at most 2 edits, 1 for words of four letters, and none for shorter ones,
//! where one edit makes `cpu` of `gpu`.

/// `; did you mean X?` with X from `known`, or nothing to add.
pub(super) fn hint<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(word, known).map_or_else(String::new, |known| format!("; did you mean {known}?"))
}

pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let limit = word.chars().count().saturating_sub(3).min(2);
    known
        .into_iter()
        .map(|known| (distance(word, known, limit), known))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

/// Exact up to `limit`; above it, some number above it.
fn distance(left: &str, right: &str, limit: usize) -> usize {
    let [left, right] = [left, right].map(|word| word.chars().collect::<Vec<char>>());
    let lengths_apart = left.len().abs_diff(right.len());
    if lengths_apart > limit {
        return lengths_apart;
    }
    // Row i holds the distances of the first i letters of `left` to each beginning of `right`.
    let mut rows = vec![(0..=right.len()).collect::<Vec<usize>>()];
    for i in 1..=left.len() {
        let mut row = vec![i];
        for j in 1..=right.len() {
            let differ = usize::from(left[i - 1] != right[j - 1]);
            let swapped =
                i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1];
            let edited = (rows[i - 1][j] + 1)
                .min(row[j - 1] + 1)
                .min(rows[i - 1][j - 1] + differ);
            row.push(if swapped {
                edited.min(rows[i - 2][j - 2] + 1)
            } else {
                edited
            });
        }
        rows.push(row);
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (left, right, expected) in [
            ("", "", 0),
            ("grpc", "grpc", 0),
            ("gprc", "grpc", 1),
            ("teh", "the", 1),
            ("adress", "address", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(left, right, 3), expected, "{left} {right}");
        }
    }

    #[test]
    fn the_nearest_wins_and_the_far_is_not_offered() {
        let keys = ["timeout", "interval", "ca", "path"];
        assert_eq!(nearest("timeuot", keys), Some("timeout"));
        assert_eq!(nearest("paht", keys), Some("path"));
        assert_eq!(nearest("cb", keys), None);
        assert_eq!(hint("intervall", keys), "; did you mean interval?");
        assert_eq!(hint("colour", keys), "");
    }
}
