//! Lines of comma-separated values.
//!
//! Owns: quotes, and both kinds of line ends. Must not: know a column.

/// The fields of each line that is not empty, with the line's number from 1. `None`: a quote is not closed.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (usize, Option<Vec<String>>)> + '_ {
    // A mark of the encoding comes first in what Windows writes.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let numbered = (1..).zip(text.lines().map(|line| line.trim_end_matches('\r')));
    numbered.filter(|(_, line)| !line.trim().is_empty()).map(|(number, line)| (number, fields(line)))
}

fn fields(line: &str) -> Option<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (vec![], String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            other => field.push(other),
        }
    }
    fields.push(field);
    (!quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_commas_and_quotes() {
        let all: Vec<_> = lines("\u{feff}a,\"b,\"\"c\"\"\",\r\n\r\nd\n\"e\r\n").collect();
        let row = |fields: &[&str]| Some(fields.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>());
        assert_eq!(all, [(1, row(&["a", "b,\"c\"", ""])), (3, row(&["d"])), (4, None)]);
    }
}
