"""Keys of fast-reid that have no field here, each with the reason."""

from __future__ import annotations

__all__ = ["AVERAGED", "COUNTED", "NO_COUNTERPART"]

COUNTED = {
    "MODEL.HEADS.NUM_CLASSES": "identities are counted in the data",
    "MODEL.HEADS.IN_FEAT": "lengths are read from the network",
    "MODEL.BACKBONE.FEAT_DIM": "lengths are read from the network",
}
_BY_THE_NETWORK = "the network is model.reference as it is; give another one as an ONNX file"
NO_COUNTERPART = {
    **dict.fromkeys(
        (
            "MODEL.META_ARCHITECTURE",
            "MODEL.BACKBONE.NORM",
            "MODEL.BACKBONE.NORM_SPLIT",
            "MODEL.BACKBONE.WITH_SE",
            "MODEL.BACKBONE.WITH_NL",
            "MODEL.HEADS.NAME",
            "MODEL.HEADS.NORM",
            "MODEL.HEADS.NORM_SPLIT",
            "MODEL.HEADS.REDUCTION_DIM",
            "MODEL.HEADS.EMBEDDING_DIM",
            "MODEL.HEADS.POOL_LAYER",
        ),
        _BY_THE_NETWORK,
    ),
    "MODEL.BACKBONE.LAST_STRIDE": "set model.options.last_stride, which resnet50 has",
    "MODEL.HEADS.WITH_BNNECK": "set neck of the loss softmax, a BatchNorm in front of its classifier alone",
    "MODEL.HEADS.NECK_FEAT": "losses see the embedding that is evaluated; neck of softmax is for its classifier alone",
    "MODEL.OPEN_LAYERS": "set model.freeze, by patterns of the names that stay frozen",
    "MODEL.FREEZE_LAYERS": "set model.freeze, by patterns of parameter names",
    "SOLVER.FREEZE_ITERS": "set model.freeze, {PATTERN: EPOCH}",
    "MODEL.BACKBONE.PRETRAIN": "rtool fetches no weights: set model.weights=FILE and model.weights_may_lack",
    "MODEL.LOSSES.CE.ALPHA": "adaptive label smoothing has no counterpart; smoothing is one number",
    "MODEL.LOSSES.TRI.USE_COSINE_DIST": "the triplet has Euclidean distances, normalised ones by normalise",
    "MODEL.LOSSES.FL.ALPHA": "there is no focal loss",
    "MODEL.LOSSES.FL.GAMMA": "there is no focal loss",
    "MODEL.LOSSES.FL.SCALE": "there is no focal loss",
    "MODEL.QUEUE_SIZE": "there is no queue of features",
    "INPUT.REA.VALUE": "erased places get the mean colour",
    "INPUT.REA.MEAN": "erased places get the mean colour",
    "INPUT.PADDING.MODE": "padded places get the mean colour",
    "INPUT.PADDING_MODE": "padded places get the mean colour",
    "INPUT.AFFINE.ENABLED": "shear and scale have no counterpart; augment.rotation turns",
    "INPUT.CROP.ENABLED": "crops of another size have no counterpart; augment.pad_crop shifts",
    "INPUT.CROP.SIZE": "crops of another size have no counterpart",
    "INPUT.CROP.SCALE": "crops of another size have no counterpart",
    "INPUT.CROP.RATIO": "crops of another size have no counterpart",
    "INPUT.CJ.BRIGHTNESS": "set augment.brightness, a share of 1",
    "INPUT.CJ.CONTRAST": "set augment.contrast",
    "INPUT.CJ.SATURATION": "set augment.saturation",
    "INPUT.CJ.HUE": "set augment.hue",
    "DATASETS.COMBINEALL": "queries and gallery are never trained on",
    "DATALOADER.SET_WEIGHT": "set several sources in data.train; they are drawn from by their sizes",
    "SOLVER.DELAY_ITERS": "the cosine begins after the warm-up",
    "SOLVER.DELAY_EPOCHS": "the cosine begins after the warm-up",
    "SOLVER.WARMUP_METHOD": "the warm-up is linear",
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "optimizer.clip bounds the norm of the whole gradient",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": "optimizer.clip bounds the 2-norm",
    "SOLVER.CHECKPOINT_PERIOD": "every epoch ends with a checkpoint; checkpoints.keep says how many stay",
    "TEST.PRECISE_BN.ENABLED": "BatchNorm keeps the statistics of training",
    "TEST.PRECISE_BN.DATASET": "BatchNorm keeps the statistics of training",
    "TEST.PRECISE_BN.NUM_ITER": "BatchNorm keeps the statistics of training",
    "TEST.AQE.QE_TIME": "embeddings are expanded once",
    "TEST.ROC.ENABLED": "rtool evaluate --roc writes the ROC of a verification",
    "CUDNN_BENCHMARK": "convolutions are timed in any case",
    "VERSION": "the version of their configuration",
}
AVERAGED = ("ENABLED", "ITER", "PERIOD", "LR_FACTOR", "ETA_MIN_LR", "LR_SCHED")
"""Keys below SOLVER.SWA."""
