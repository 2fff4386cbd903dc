from tests.services.etcd import etcd, etcd_trio

__all__ = ["etcd", "etcd_trio"]
