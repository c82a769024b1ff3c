"""How latents look in a preview."""


class LatentFormat:
    latent_channels = 4
    latent_rgb_factors = latent_rgb_factors_bias = taesd_decoder_name = None


class Wan21(LatentFormat):
    latent_channels = 16
    taesd_decoder_name = "lighttaew2_1"
    latent_rgb_factors = [[0.2 * (row % 3 == color) for color in range(3)] for row in range(16)]  # noqa: RUF012


class HunyuanVideo(LatentFormat):
    latent_channels = 16


class LTXV(LatentFormat):
    latent_channels = 128
