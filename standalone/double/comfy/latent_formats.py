"""How a VAE's latents look to a model."""

import torch


class LatentFormat:
    scale_factor, latent_channels, latent_dimensions = 1.0, 4, 2
    spacial_downscale_ratio, temporal_downscale_ratio = 8, 1
    latent_rgb_factors = latent_rgb_factors_bias = None
    mean, std = "0", "1"

    def _moments(self, latent):
        numbers = ([*map(float, text.split())] for text in (self.mean, self.std))
        return (torch.tensor(values).view(-1, 1, 1, 1).to(latent) for values in numbers)

    def process_in(self, latent):
        mean, std = self._moments(latent)
        return (latent - mean) / std

    def process_out(self, latent):
        mean, std = self._moments(latent)
        return latent * std + mean


class Wan21(LatentFormat):
    latent_channels, latent_dimensions, temporal_downscale_ratio = 16, 3, 4
    latent_rgb_factors = [[0.2 * (row % 3 == color) for color in range(3)] for row in range(16)]  # noqa: RUF012
    # by the VAE's authors
    mean = "-.7571 -.7089 -.9113 .1075 -.1745 .9653 -.1517 1.5508 .4134 -.0715 .5517 -.3632 -.1922 -.9497 .2503 -.2921"
    std = "2.8184 1.4541 2.3275 2.6558 1.2196 1.7708 2.6052 2.0743 3.2687 2.1526 2.8652 1.5579 1.6382 1.1253 2.8251 1.916"


class LTXV(LatentFormat):
    latent_channels, latent_dimensions, spacial_downscale_ratio, temporal_downscale_ratio = 128, 3, 32, 8
