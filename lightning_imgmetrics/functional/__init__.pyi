"""Where each function lives: what `__init__` loads when it is used, and what type checkers read.

torchmetrics has functions of other arguments named `cohen_kappa`, `kl_divergence` and `total_variation`: ours are in
`agreement` and `balance`.
"""

from lightning_imgmetrics.functional import (
    agreement as agreement,
    balance as balance,
    distances as distances,
    entropy as entropy,
    filters as filters,
    frechet as frechet,
    intervals as intervals,
    likelihood as likelihood,
    manifold as manifold,
    mmd as mmd,
    neighbors as neighbors,
    perceptual as perceptual,
    photometry as photometry,
    pixel as pixel,
    prompt_statistics as prompt_statistics,
    resampling as resampling,
    sharpness as sharpness,
    structural_similarity as structural_similarity,
    visual_information as visual_information,
)
from lightning_imgmetrics.functional.agreement import (
    kendall as kendall,
    krippendorff_alpha as krippendorff_alpha,
    pairwise_accuracy as pairwise_accuracy,
    pearson as pearson,
    spearman as spearman,
)
from lightning_imgmetrics.functional.balance import balance_interval as balance_interval, largest_skew as largest_skew
from lightning_imgmetrics.functional.entropy import (
    class_probabilities as class_probabilities,
    inception_score as inception_score,
    vendi_score as vendi_score,
)
from lightning_imgmetrics.functional.frechet import (
    frechet_distance as frechet_distance,
    frechet_of_factors as frechet_of_factors,
    frechet_to_factor as frechet_to_factor,
    psd_factor as psd_factor,
    row_factor as row_factor,
)
from lightning_imgmetrics.functional.intervals import (
    bounded_interval as bounded_interval,
    clustered_wilson_interval as clustered_wilson_interval,
    mean_interval as mean_interval,
    wilson_interval as wilson_interval,
    win_interval as win_interval,
)
from lightning_imgmetrics.functional.likelihood import feature_likelihood_divergence as feature_likelihood_divergence
from lightning_imgmetrics.functional.manifold import (
    authenticity as authenticity,
    ball_counts as ball_counts,
    density_coverage as density_coverage,
    kth_radius as kth_radius,
    largest_cosine as largest_cosine,
    nearest as nearest,
    precision_recall as precision_recall,
    realism as realism,
)
from lightning_imgmetrics.functional.mmd import (
    gaussian_mmd as gaussian_mmd,
    gaussian_mmd_of_moments as gaussian_mmd_of_moments,
    gaussian_mmd_truncation as gaussian_mmd_truncation,
    polynomial_mmd as polynomial_mmd,
    random_subsets as random_subsets,
    subset_polynomial_mmd as subset_polynomial_mmd,
)
from lightning_imgmetrics.functional.perceptual import (
    dists as dists,
    lpips_distance as lpips_distance,
    lpips_layers as lpips_layers,
    lpips_map as lpips_map,
    perceptual_embedding as perceptual_embedding,
)
from lightning_imgmetrics.functional.photometry import (
    black as black,
    blank as blank,
    clipped_fraction as clipped_fraction,
    colorfulness as colorfulness,
    contrast as contrast,
    exposure as exposure,
    luma as luma,
    saturation as saturation,
)
from lightning_imgmetrics.functional.pixel import mse as mse, psnr as psnr, studio_luma as studio_luma
from lightning_imgmetrics.functional.prompt_statistics import (
    best_of_k as best_of_k,
    intraclass_correlation as intraclass_correlation,
    per_prompt_statistics as per_prompt_statistics,
    prompt_mean as prompt_mean,
    variance_components as variance_components,
    worst_of_k as worst_of_k,
)
from lightning_imgmetrics.functional.resampling import (
    cluster_bootstrap as cluster_bootstrap,
    extrapolate as extrapolate,
    jackknife as jackknife,
    paired_bootstrap as paired_bootstrap,
)
from lightning_imgmetrics.functional.sharpness import (
    laplacian_variance as laplacian_variance,
    noise_level as noise_level,
    tenengrad as tenengrad,
)
from lightning_imgmetrics.functional.structural_similarity import (
    ms_ssim as ms_ssim,
    ssim as ssim,
    ssim_maps as ssim_maps,
)
from lightning_imgmetrics.functional.visual_information import vif as vif
from lightning_imgmetrics.metrics.functional_api import (
    clip_image_quality_assessment as clip_image_quality_assessment,
    clip_score as clip_score,
    deep_image_structure_and_texture_similarity as deep_image_structure_and_texture_similarity,
    learned_perceptual_image_patch_similarity as learned_perceptual_image_patch_similarity,
    multiscale_structural_similarity_index_measure as multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio as peak_signal_noise_ratio,
    structural_similarity_index_measure as structural_similarity_index_measure,
    visual_information_fidelity as visual_information_fidelity,
)
