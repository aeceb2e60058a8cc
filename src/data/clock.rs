//! The time as `strftime` of Python's naive `datetime` writes it.

use jiff::{ZonedDateTime, fmt::strtime};

/// What one letter after % stands for in the words of jiff, where they differ.
const OTHERS: &[(char, &str)] =
    &[('c', "%a %b %e %H:%M:%S %Y"), ('x', "%m/%d/%y"), ('X', "%H:%M:%S"), ('r', "%I:%M:%S %p"), ('h', "%b")];

/// Those that mean the same to both.
const SAME: &str = "aAbBCdDeFgGHIjklmMnpRStTuUVwWyY%";

/// Writes a time by a format of `strftime`; without a zone, as `datetime.now()` has none.
///
/// # Errors
/// The reason, for what is not known.
pub fn strftime(format: &str, time: &ZonedDateTime) -> Result<String, String> {
    let mut known = String::new();
    let mut chars = format.chars();
    while let Some(char) = chars.next() {
        if char != '%' {
            known.push(char);
            continue;
        }
        let rest = chars.as_str();
        // Without the zero at its beginning, as the C library has it.
        let sign = rest.chars().next().filter(|char| "-_0^#".contains(*char));
        if sign.is_some() {
            chars.next();
        }
        let shown: String = rest.chars().take(1 + usize::from(sign.is_some())).collect();
        match (sign, chars.next()) {
            (None, Some('z' | 'Z')) => {}
            (None, Some('f')) => known.push_str(&format!("{:06}", time.subsec_nanosecond() / 1000)),
            (None, Some(letter)) if OTHERS.iter().any(|(other, _)| *other == letter) => {
                known.extend(OTHERS.iter().filter(|(other, _)| *other == letter).map(|(_, words)| *words));
            }
            (None, Some(letter)) if SAME.contains(letter) => known.extend(['%', letter]),
            (Some('-'), Some(letter)) if "dHIjmMSyekl".contains(letter) => known.extend(['%', '-', letter]),
            _ => return Err(format!("strftime_now: %{shown} is not known")),
        }
    }
    strtime::format(&known, time).map_err(|error| format!("strftime_now: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_directive_is_what_python_writes() -> Result<(), Box<dyn std::error::Error>> {
        let time: ZonedDateTime = "2026-03-05T07:08:09.001234[UTC]".parse()?;
        // datetime(2026, 3, 5, 7, 8, 9, 1234).strftime(format)
        for (format, expected) in [
            ("%c|%x|%X|%r", "Thu Mar  5 07:08:09 2026|03/05/26|07:08:09|07:08:09 AM"),
            ("%f|%Z|%z|%%", "001234|||%"),
            ("%d %B %Y %H:%M:%S", "05 March 2026 07:08:09"),
            ("%a %A %b %h %j %U %W %u %w %y %I %p", "Thu Thursday Mar Mar 064 09 09 4 4 26 07 AM"),
            ("%C %D %e %F %g %G %k %l %R %T %V", "20 03/05/26  5 2026-03-05 26 2026  7  7 07:08 07:08:09 10"),
            ("%-d/%-m %-H:%-M:%-S %-I %-j %-y", "5/3 7:8:9 7 64 26"),
            ("a%nb%tc é", "a\nb\tc é"),
        ] {
            assert_eq!(strftime(format, &time)?, expected, "{format}");
        }
        for unknown in ["%Q", "%s", "%:z", "%5d", "%E", "%", "%-", "%-Q", "%N", "%+"] {
            assert!(strftime(unknown, &time).is_err_and(|reason| reason.contains("is not known")), "{unknown}");
        }
        Ok(())
    }
}
