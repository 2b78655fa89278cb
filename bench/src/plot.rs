//! Plots as SVG: series of points over logarithmic axes.

use plotters::prelude::{
    ChartBuilder, Circle, Color as _, IntoDrawingArea as _, IntoLogRange as _, LineSeries, RGBColor, SVGBackend, WHITE,
};
use std::path::Path;

/// One line of a plot.
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A plot.
pub(crate) struct Plot<'a> {
    pub(crate) title: &'a str,
    /// What the axes count.
    pub(crate) axes: [&'a str; 2],
    pub(crate) series: Vec<Series>,
}

const SIZE: (u32, u32) = (840, 480);
/// Legible side by side, also for those who see no red or no green.
const COLOURS: [RGBColor; 5] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(110, 110, 110),
];

impl Plot<'_> {
    /// Draws it. Points that are not positive have no place on these axes, and are left out.
    pub(crate) fn draw(&self, path: &Path) -> Result<(), super::Failure> {
        let points = || self.series.iter().flat_map(|series| drawable(&series.points));
        let bounds = |of: fn(&(f64, f64)) -> f64| {
            let (low, high) =
                points().fold((f64::MAX, 0.0_f64), |(low, high), point| (low.min(of(&point)), high.max(of(&point))));
            if low > high { (0.5, 2.0) } else { (low / 1.5, high * 1.5) }
        };
        let ((left, right), (bottom, top)) = (bounds(|point| point.0), bounds(|point| point.1));
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 20))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(84)
            .build_cartesian_2d((left..right).log_scale(), (bottom..top).log_scale())?;
        chart
            .configure_mesh()
            .x_desc(self.axes[0])
            .y_desc(self.axes[1])
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .draw()?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let points: Vec<(f64, f64)> = drawable(&series.points).collect();
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
                .label(series.name.clone())
                .legend(|(x, y)| Circle::new((x + 10, y), 4, colour.filled()));
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, colour.filled())))?;
        }
        chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(COLOURS[4]).draw()?;
        area.present()?;
        Ok(())
    }
}

fn drawable(points: &[(f64, f64)]) -> impl Iterator<Item = (f64, f64)> + '_ {
    points.iter().copied().filter(|(x, y)| *x > 0.0 && *y > 0.0)
}

fn number(value: f64) -> String {
    if value >= 10.0 { format!("{value:.0}") } else { format!("{value}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_names_its_series_and_axes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plot.svg");
        let series = |name: &str, points: &[(f64, f64)]| Series { name: name.to_owned(), points: points.to_vec() };
        let plot = Plot {
            title: "a title",
            axes: ["pages", "us"],
            series: vec![series("one", &[(0.0, 3.0), (10.0, 5.0), (1000.0, 70.0)]), series("none", &[])],
        };
        plot.draw(&path).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.starts_with("<svg"));
        for text in ["a title", "pages", "us", "one", "none"] {
            assert!(svg.contains(text), "{text} is missing");
        }
    }
}
