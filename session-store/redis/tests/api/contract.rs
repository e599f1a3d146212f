//! What every store must do, here on each kind of server.

mod redis_7_0 {
    use crate::api::subject::{Kind, Redis};

    fn subject() -> Redis {
        Redis::take(Kind::Redis)
    }

    store_contract::suite!(subject);

    #[test]
    fn whatever_is_asked_it_answers_as_the_memory_store_does() {
        store_contract::differential::differential(100, 80, subject);
    }
}

mod redis_7_0_fsync {
    use crate::api::subject::{Kind, Redis};

    fn subject() -> Redis {
        Redis::take(Kind::RedisFsync)
    }

    store_contract::suite!(subject);

    #[test]
    fn whatever_is_asked_it_answers_as_the_memory_store_does() {
        store_contract::differential::differential(10, 80, subject);
    }
}

mod valkey_8_1_fsync {
    use crate::api::subject::{Kind, Redis};

    fn subject() -> Redis {
        Redis::take(Kind::ValkeyFsync)
    }

    store_contract::suite!(subject);

    #[test]
    fn whatever_is_asked_it_answers_as_the_memory_store_does() {
        store_contract::differential::differential(30, 80, subject);
    }
}

mod cluster {
    use crate::api::subject::{Kind, Redis};

    fn subject() -> Redis {
        Redis::take(Kind::Cluster)
    }

    store_contract::suite!(subject);

    #[test]
    fn whatever_is_asked_it_answers_as_the_memory_store_does() {
        store_contract::differential::differential(30, 80, subject);
    }
}
