"""The pool of pixels equals a loop over all pixels of all views, whatever their sizes."""

import torch

from dv.data.folder import read_views
from dv.data.reading import ImageReading
from dv.geometry.camera import pixel_rays
from dv.geometry.grid import GridPlacement
from dv.lightning.pixel_pool import find_pixels, view_and_pixel
from dv.nets.radiance_sizes import RadianceSizes
from dv.radiance import RadianceGrid
from several_cameras import write_two_cameras


def test_numbers_are_rows_of_the_pixels_whose_rays_hit_a_vertex(tmp_path):
    views = read_views(write_two_cameras(tmp_path, train=4) / "train" / "ball", ImageReading(), "white")
    grid = RadianceGrid(RadianceSizes(None, 8), GridPlacement((0.0, 0.0, 0.0), 0.5, 0.5))
    numbers = find_pixels(grid, views.poses, views.cameras, border=3)
    starts, widths = torch.tensor(views.starts), torch.tensor([k.width for k in views.cameras])
    found = set(zip(numbers.tolist(), *(x.tolist() for x in view_and_pixel(numbers, starts, widths)[:1]), strict=True))
    distance = grid.voxels.distance_to_vertices()
    expected = []
    for view, camera in enumerate(views.cameras):
        image = views.image(view)
        for row in range(3, camera.height - 3):
            for column in range(3, camera.width - 3):
                rays = pixel_rays(views.poses[view : view + 1], torch.tensor([[column, row]]), camera)
                number = views.starts[view] + row * camera.width + column
                assert torch.equal(views.pixels[number], image[:, row, column])
                located = view_and_pixel(torch.tensor([number]), starts, widths)
                assert [located[0].item(), *located[1][0].tolist()] == [view, column, row]
                if grid.voxels.hits_vertices(grid.rays(*rays, torch.tensor([0.5])), distance).any():
                    expected.append((number, view))
    assert found == set(expected)
    assert 0 < len(expected) == len(numbers) < len(views.pixels) / 2
