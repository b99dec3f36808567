"""The public names; each is loaded when it is first used."""

import pathlib

from .checks import InputError as InputError
from .config import RunConfig as RunConfig
from .config import config_to_dict as config_to_dict
from .config import load_config as load_config
from .console import Progress as Progress
from .constants import BACKGROUND as BACKGROUND
from .constants import SURFACE as SURFACE
from .constants import UNLABELLED as UNLABELLED
from .data.competition import Competition as Competition
from .data.patches import PatchDataset as PatchDataset
from .diagnosis import Diagnosis as Diagnosis
from .diagnosis import diagnose as diagnose
from .inference.archive import list_images as list_images
from .inference.archive import pack_submission as pack_submission
from .inference.archive import validate_submission as validate_submission
from .inference.out_of_fold import predict_out_of_fold as predict_out_of_fold
from .inference.out_of_fold import read_out_of_fold as read_out_of_fold
from .inference.predict import predict_volume as predict_volume
from .inference.submission import postprocess_folder as postprocess_folder
from .inference.submission import predict_folder as predict_folder
from .inference.submission import write_submission as write_submission
from .io.volume import read_volume as read_volume
from .io.volume import write_volume as write_volume
from .losses import WeightedLoss as WeightedLoss
from .metrics import LeaderboardScore as LeaderboardScore
from .metrics import betti_matching_counts as betti_matching_counts
from .metrics import betti_matching_features as betti_matching_features
from .metrics import leaderboard_score as leaderboard_score
from .metrics import score_folder as score_folder
from .metrics import surface_dice as surface_dice
from .metrics import variation_of_information as variation_of_information
from .models import create_model as create_model
from .models import list_models as list_models
from .models.checkpoint import load_model as load_model
from .models.checkpoint import save_checkpoint as save_checkpoint
from .models.nnunet import load_nnunet as load_nnunet
from .phantom import Phantom as Phantom
from .phantom import make_phantom as make_phantom
from .phantom import write_competition as write_competition
from .postprocess import close_ball as close_ball
from .postprocess import close_cylinder as close_cylinder
from .postprocess import fill_cavities as fill_cavities
from .postprocess import hysteresis_threshold as hysteresis_threshold
from .postprocess import load_pipeline as load_pipeline
from .postprocess import make_mask as make_mask
from .postprocess import remove_small_components as remove_small_components
from .postprocess import ridge_filter as ridge_filter
from .postprocess import run_pipeline as run_pipeline
from .postprocess import simple_mask as simple_mask
from .postprocess import smooth_octants as smooth_octants
from .postprocess import topo_postprocess as topo_postprocess
from .postprocess.files import load_probability as load_probability
from .report import write_report as write_report
from .training.learning_rate import BoundedLR as BoundedLR
from .tuning import Tuning as Tuning
from .tuning import tune as tune

__version__: str

def train(
    config: RunConfig, *, fresh: bool = False, resume_from: pathlib.Path | str | None = None, progress: Progress = ...
) -> pathlib.Path: ...
