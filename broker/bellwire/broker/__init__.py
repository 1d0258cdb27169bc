"""The broker: where participants meet, prove who they are and reach each other."""
