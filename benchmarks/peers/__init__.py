"""What Steelyard is measured against."""
