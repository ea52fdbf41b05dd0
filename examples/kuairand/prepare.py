"""Joins KuaiRand-Pure's impressions with its user and video features into a training and a test log."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

LEAKS = ["watch_ratio", "finish", "like", "long_watch", "is_positive", "profile_stay_time", "comment_stay_time"]
REPEATED = ["user_id", "video_id", "time_ms"]
VIDEO_COLUMNS = ["video_id", "video_type", "upload_type", "music_id", "music_type", "server_width", "server_height"]
HOUR_MS = 3_600_000


def prepare(data: Path, out: Path) -> None:
    """Write `train.parquet` (25 to 30 April 2022) and `test.parquet` (1 to 8 May) of the joined log."""
    users = pd.read_csv(data / "user_features_pure.csv")
    videos = pd.read_csv(data / "video_features_basic_pure.csv")
    videos = videos[VIDEO_COLUMNS]
    out.mkdir(parents=True, exist_ok=True)
    for source, name in (("val", "train"), ("test", "test")):
        log = pd.read_parquet(data / f"{source}.parquet").drop(columns=LEAKS).drop_duplicates(REPEATED)
        log = log.merge(users, on="user_id", how="left").merge(videos, on="video_id", how="left")
        log["request_id"] = log["user_id"] * 10**6 + log["time_ms"] // HOUR_MS  # a session of an hour
        log["play_seconds"] = log["play_time_ms"].astype("float64") / 1000 * log["long_view"].astype("float64")
        log.to_parquet(out / f"{name}.parquet", index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder with val.parquet, test.parquet and the two feature files")
    parser.add_argument("out", type=Path, help="folder for train.parquet and test.parquet")
    arguments = parser.parse_args()
    prepare(arguments.data, arguments.out)
