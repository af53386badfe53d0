//! Countries: the database, and the codes of a stream.
//!
//! Owns: what is said of both. Must not: read the database; what it has comes in with the view.

use ipnet::IpNet;

use crate::config::problem::{Problem, code};
use crate::config::raw::RawConfig;
use crate::config::read::{At, Many};
use crate::config::settings::HostView;
use crate::model::Countries;

/// Says why the database is of no use.
pub(super) fn database(raw: &RawConfig, view: &HostView, problems: &mut Vec<Problem>) {
    let Some(table) = &raw.countries else { return };
    let Some(database) = &table.value.database else {
        if !table.value.unread.contains(&"database") {
            problems.push(
                Problem::error(code::MISSING_KEY, "`[countries]` needs `database`")
                    .at(&table.span, "which file has the countries is missing")
                    .help("Write database = \"/var/lib/GeoIP/GeoLite2-Country.mmdb\", or where the file is."),
            );
        }
        return;
    };
    if let Some(Err(why)) = &view.countries {
        problems.push(
            Problem::error(code::DATABASE_INVALID, format!("the database of countries cannot be used: {why}"))
                .at(&database.span, "")
                .help("It is a file in MaxMind's format with a country for each network, such as GeoLite2-Country.mmdb. Streams by country would match nothing without it, and their mail leave as another stream's."),
        );
    }
}

/// The countries of a stream. `has_database`: the config names one.
pub(super) fn countries(
    written: Option<&At<Many<String>>>,
    has_database: bool,
    view: &HostView,
    problems: &mut Vec<Problem>,
) -> Countries {
    let Some(written) = written else { return Countries::default() };
    if !has_database {
        problems.push(
            Problem::error(code::MISSING_KEY, "a stream by country needs `[countries] database`")
                .at(&written.span, "who is where is not known")
                .help("Add [countries] with database = \"/var/lib/GeoIP/GeoLite2-Country.mmdb\", or match by `destination`."),
        );
    }
    let known = view.countries.as_ref().and_then(|read| read.as_ref().ok());
    let (mut codes, mut networks) = (vec![], Vec::<IpNet>::new());
    for item in &written.value.items {
        let country = item.value.to_ascii_uppercase();
        if country.len() != 2 || !country.bytes().all(|byte| byte.is_ascii_uppercase()) {
            problems.push(
                Problem::error(code::COUNTRY_INVALID, format!("`{}` is no country", item.value))
                    .at(&item.span, "")
                    .help("Write its two letters as in ISO 3166-1, such as \"DE\" or \"FR\"."),
            );
            continue;
        }
        match known.map(|known| known.get(&country).filter(|networks| !networks.is_empty())) {
            Some(Some(found)) => networks.extend(found),
            Some(None) => problems.push(
                Problem::warning(code::COUNTRY_UNKNOWN, format!("the database has no network in {country}"))
                    .at(&item.span, "nothing matches it")
                    .help("ISO 3166-1 says GB and not UK; or the database is for something else."),
            ),
            None => {}
        }
        codes.push(country);
    }
    codes.sort_unstable();
    codes.dedup();
    Countries::new(codes, &networks)
}
