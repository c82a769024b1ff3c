"""What a page announces that it can do."""


def supports_feature(sockets_metadata, sid, feature_name):
    return feature_name in sockets_metadata.get(sid, {})
