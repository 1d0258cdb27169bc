"""Heralds from detectors' time tags: streams and files of tags, the finder of coincidences, and a station's backend of both."""
