"""COCO scoring: matched in shards, merged once, equal to pycocotools."""
