//! Names side by side, filled column by column, as `ls` shows them on a terminal.

use unicode_width::UnicodeWidthStr;

/// Spaces between columns.
const GAP: usize = 2;

/// As many columns as fit into `width` cells; at least one.
pub(crate) fn in_columns(names: &[String], width: usize) -> String {
    if names.is_empty() {
        return String::new();
    }
    let lens: Vec<usize> = names.iter().map(|name| name.width()).collect();
    let shortest = lens.iter().min().map_or(1, |len| len + GAP).max(1);
    // More columns than this cannot fit even if all names were as short as the shortest.
    let columns_max = ((width + GAP) / shortest).clamp(1, names.len());
    let (rows, widths) = (1..=columns_max)
        .rev()
        .map(|columns| layout(&lens, columns))
        .find(|(_, widths)| widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1) <= width)
        .unwrap_or_else(|| layout(&lens, 1));
    let mut text = String::new();
    for row in 0..rows {
        let cells = names.iter().zip(&lens).skip(row).step_by(rows);
        let mut padding = 0;
        for ((name, len), column_width) in cells.zip(&widths) {
            text.push_str(&" ".repeat(padding));
            text.push_str(name);
            padding = column_width - len + GAP;
        }
        text.push('\n');
    }
    text
}

/// Rows that so many columns need, and how wide each column then is.
fn layout(lens: &[usize], columns: usize) -> (usize, Vec<usize>) {
    let rows = lens.len().div_ceil(columns);
    (rows, lens.chunks(rows).map(|column| column.iter().copied().max().unwrap_or(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::in_columns;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn names_run_down_the_columns_and_lines_keep_within_the_width() {
        let text = in_columns(&names(&["a", "bbbbbb", "c", "dd", "e"]), 12);
        assert_eq!(text, "a       dd\nbbbbbb  e\nc\n");
    }

    #[test]
    fn what_is_wider_than_the_terminal_stands_alone() {
        assert_eq!(in_columns(&names(&["a long name", "b"]), 5), "a long name\nb\n");
    }

    #[test]
    fn no_names_are_no_lines() {
        assert_eq!(in_columns(&[], 80), "");
    }
}
