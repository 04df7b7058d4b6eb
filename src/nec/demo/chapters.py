"""The chapters of the report: what the figures of a demo run say, in words, tables and pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nec.bench.figures import CLASS_COLOURS, data_uri, png_bytes, sheet
from nec.bench.html import Page, megabytes
from nec.demo import consume, plots

if TYPE_CHECKING:
    from nec.demo.consume import TokenColours
    from nec.demo.produce import Encoded
    from nec.demo.run import Made, Options
    from nec.heads import Head, HeadResult
    from nec.store import ImageStore

HEAD_NAMES = {"linear": "linear probe", "attention": "attention pooling"}


def build(
    options: Options,
    store: ImageStore,
    results: tuple[HeadResult, HeadResult],
    colours: TokenColours,
    made: Made,
    figures: dict[str, Any],
) -> str:
    """The whole page; writes the charts and pictures as PNG files into `options.out` too."""
    best = results[1].report
    page = Page(
        "Images as a few hundred bytes",
        f"Report of nec demo: the store {options.store}, the model {options.model}, one run with seed {options.seed}.",
    )
    sizes = figures["store"]
    pixels = _pixel_bytes(store, made)
    tiles = [
        (f"{best.figures['accuracy']:.1%}", f"of {best.test_images:,} held-out images classified correctly"),
        (f"{sizes['bytes_per_image']:.0f} B", f"stored for an image of {pixels // len(store):,} bytes of pixels"),
        (f"{pixels / sizes['stored_bytes']:.0f} : 1", "against raw pixels"),
        (f"{best.seconds:.0f} s", "to read the store and train the head on this machine"),
    ]
    page.tiles(tiles)
    _sizes(page, store, sizes, pixels)
    _accuracy(page, options, results)
    _rates(page, options, results, figures)
    _tokens(page, options, store, colours, made)
    _scene(page, options, store, colours, made)
    if figures["real_images"]:
        _real(page, figures["real_images"], options)
    if made.user:
        _user(page, options, store, colours, made.user, results[1].head)
    _colophon(page, figures)
    return page.render()


def _pixel_bytes(store: ImageStore, made: Made) -> int:
    """Raw RGB bytes of the images behind the store: tokens times the model's patch size."""
    return len(store) * store.grid[0] * store.grid[1] * made.patch_bytes


def _sizes(page: Page, store: ImageStore, sizes: dict[str, Any], pixels: int) -> None:
    page.heading("What a consumer downloads")
    y, x = store.grid
    torch = "after PyTorch had been imported by something else" if sizes["torch_imported"] else "without PyTorch"
    page.text(
        f"{len(store):,} images, each a grid of {y} x {x} tokens with {store.dimensions} values. The store was opened "
        f"{torch} "
        f"in {1000 * sizes['open_seconds']:.0f} ms; the first 64 images were decoded "
        f"{1000 * sizes['first_read_seconds']:.0f} ms later."
    )
    forms = [("raw pixels, 8-bit RGB", pixels)]
    if sizes["image_files_bytes"]:
        forms.append(("the image files as published", sizes["image_files_bytes"]))
    forms += [("the same tokens as float16", sizes["float16_bytes"]), ("stored tokens", sizes["stored_bytes"])]
    rows = [
        (name, megabytes(size), f"{size / len(store):,.0f}", f"{size / sizes['stored_bytes']:,.1f} x")
        for name, size in forms
    ]
    rows.append(
        ("beside them: " + _side(sizes), megabytes(sizes["side_bytes"]), f"{sizes['side_bytes'] / len(store):,.1f}", "")
    )
    page.table(("form", "total", "bytes an image", "relative"), rows, mark=len(forms) - 1)


def _side(sizes: dict[str, Any]) -> str:
    return ", ".join(f"{name} {megabytes(size)}" for name, size in sizes["side_information"].items())


def _accuracy(page: Page, options: Options, results: tuple[HeadResult, HeadResult]) -> None:
    page.heading("Classification from the stored tokens")
    reports = [result.report for result in results]
    page.text(
        "Heads learn on the training part of the split that the store records, choose penalty or epoch on its "
        "validation "
        "part, and see the test part once. The foundation model itself is not needed."
    )
    rows = [
        (
            HEAD_NAMES[r.head],
            f"{r.figures['accuracy']:.2%}",
            f"{r.head_parameters:,}",
            f"{r.seconds:.0f} s",
            "no" if r.head == "linear" else "yes",
        )
        for r in reports
    ]
    page.table(("head", "test accuracy", "parameters", "read and train", "needs PyTorch"), rows, mark=1)
    chart = plots.per_class(
        options.out / "per-class.png", {HEAD_NAMES[r.head]: r.figures["per_class"] for r in reports}
    )
    best = results[1].report
    wrong = consume.most_confused(np.array(best.figures["confusion"]), best.figures["class_names"], 3)
    mistakes = "; ".join(f"{a} taken for {b} ({count})" for a, b, count in wrong)
    page.chart(
        chart.svg,
        f"Share of each class's test images recognised. Commonest mistakes of the attention head: {mistakes}.",
    )


def _rates(page: Page, options: Options, results: tuple[HeadResult, HeadResult], figures: dict[str, Any]) -> None:
    page.heading("Rate and accuracy")
    points, counts = figures["rate_accuracy"]["points"], figures["rate_accuracy"]["images"]
    page.text(
        "The first point is the store as it ships. The coarser ones are transcodes: its decoded tokens quantised "
        "again with the same codec, counted in real coded bytes. Quantising twice loses more than coding the original "
        "tokens at that rate would, and unevenly: take these points as a lower bound. "
        f"Each point is a linear probe on every fourth chunk ({counts['train']:,} training and {counts['test']:,} test "
        f"images)."
    )
    sizes = figures["store"]
    reports = [result.report for result in results]
    heads = {f"{HEAD_NAMES[r.head]}, all images": (r.bytes_per_image, r.figures["accuracy"]) for r in reports}
    float_bytes = sizes["float16_bytes"] / sizes["images"]
    chart = plots.rate_accuracy(options.out / "rate-accuracy.png", points, heads, float_bytes)
    page.chart(
        chart.svg, "Bytes an image on a logarithmic axis. Marks: heads trained on all images of the shipped store."
    )
    rows = [
        (
            "as shipped" if i == 0 else "transcode",
            f"{p['quality']:.3g}",
            f"{p['bytes_per_image']:.1f}",
            f"{float_bytes / p['bytes_per_image']:,.0f} : 1",
            f"{p['accuracy']:.2%}",
        )
        for i, p in enumerate(points)
    ]
    page.table(("", "quality", "bytes an image", "against float16 tokens", "linear probe"), rows, mark=0)


def _tokens(page: Page, options: Options, store: ImageStore, colours: TokenColours, made: Made) -> None:
    page.heading("What the tokens look like")
    page.text(
        f"The first three principal components of the decoded tokens ({colours.explained:.0%} of their variance) as "
        f"red, green and "
        "blue, one colour scale for all, after taking away what all images share at each place. Four test images of "
        "each class" + (", the original beside its tokens." if made.originals else ".")
    )
    strips: dict[str, list[list[str]]] = {name: [] for name in store.class_names or []}
    tiles = []
    shown = consume.examples(store, 4)
    for i, grid in zip(shown, colours.paint(store.embeddings[shown]), strict=True):
        original = made.originals.get(int(i))
        group = [] if original is None else [data_uri(original)]
        strips[(store.class_names or [])[np.asarray(store.labels)[i]]].append([*group, data_uri(grid)])
        tiles.append(grid)
    page.strips(strips)
    picture = sheet(np.stack(tiles), columns=len(tiles) // max(1, len(strips)), scale=8)
    (options.out / "tokens.png").write_bytes(png_bytes(picture))


def _scene(page: Page, options: Options, store: ImageStore, colours: TokenColours, made: Made) -> None:
    scene, figures = made.scene, made.scene.figures
    page.heading("A scene through the producer's path")
    side = figures["size"]
    page.text(
        f"A generated landscape ({side} x {side} pixels of 10 m, written as a GeoTIFF in UTM) went through "
        f"{options.model} into a store "
        f"in {figures['seconds']:.1f} s. Its {figures['pixel_bytes']:,} bytes of pixels became "
        f"{figures['stored_bytes']:,}. "
        f"All {figures['symbols_checked']:,} quantised symbols were decoded from the stored bytes and equal those the "
        f"model "
        "produced. The class map applies the attention head, trained on EuroSAT, to windows of 640 m; it has never "
        "seen a drawn landscape."
    )
    tokens = scene.store.embeddings[0]
    shades = colours.paint(tokens)
    painted = plots.paint_classes(made.classes, store.grid[0])
    pictures = {"scene.png": (scene.images[0], "the scene"), "scene-tokens.png": (shades, "its decoded tokens, by PCA")}
    pictures["scene-classes.png"] = (painted, "class of the window around each place")
    for name, (image, _) in pictures.items():
        scale = max(1, side // len(image))
        (options.out / name).write_bytes(png_bytes(sheet(image[None], columns=1, scale=scale)))
    page.pictures([(data_uri(image), text) for image, text in pictures.values()])
    names = store.class_names or []
    page.key((name, CLASS_COLOURS[i % len(CLASS_COLOURS)]) for i, name in enumerate(names))


def _real(page: Page, real: dict[str, Any], options: Options) -> None:
    page.heading("The original images, encoded again here")
    page.text(
        f"{real['images']:,} test images were read from the original files and coded with {options.model} on this "
        f"machine: "
        f"{real['equal_symbols']:.4%} of the symbols equal those in the shipped store, and the attention head "
        f"recognises "
        f"{real['accuracy']:.1%} of the images."
    )


def _user(page: Page, options: Options, store: ImageStore, colours: TokenColours, user: Encoded, best: Head) -> None:
    page.heading("Your images")
    figures = user.figures
    page.text(
        f"{figures['images']} images from {options.images}, cropped and resized to the model's input: "
        f"{figures['stored_bytes'] / figures['images']:.0f} stored bytes each, all {figures['symbols_checked']:,} "
        f"symbols came back. "
        "Each with its tokens and the class that the head gives it; it knows the store's classes only."
    )
    strips: dict[str, list[list[str]]] = {}
    tokens = user.store.embeddings[:]
    for image, grid, label in zip(user.images, colours.paint(tokens), best.predict(tokens), strict=True):
        strips.setdefault(best.class_names[label], []).append([data_uri(image), data_uri(grid)])
    page.strips(strips)


def _colophon(page: Page, figures: dict[str, Any]) -> None:
    page.heading("How this was made")
    versions = ", ".join(f"{name} {version}" for name, version in figures["software"].items())
    page.text(
        f"The whole run took {figures['seconds']:.0f} s. {versions}. All figures are in figures.json beside this page."
    )
