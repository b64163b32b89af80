"""The OpenAPI document: what FastAPI reads off the routes, made true.

FastAPI cannot know our problem details and our settings, and it documents a validation error of
its own that this service never sends. Generated clients believe every word of it.
"""

from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema

from app.api.problems import ProblemDetails, ValidationProblem
from app.core.config import Settings
from app.core.refusals import Reason
from app.models.user import UserCreate

SCHEMA = "#/components/schemas/{model}"
NEVER_SENT = ("HTTPValidationError", "ValidationError")

Json = dict[str, Any]


def describe(app: FastAPI, settings: Settings) -> Json:
    """Takes the place of app.openapi. FastAPI builds the document for whoever asks first, and
    keeps it; it is corrected then, in place.
    """
    document = FastAPI.openapi(app)
    schemas: Json = document["components"]["schemas"]
    if ProblemDetails.__name__ not in schemas:
        schemas |= problem_schemas()
        for operation in operations(document):
            use_docstring(operation)
            correct_responses(operation["responses"])
        for name in NEVER_SENT:
            schemas.pop(name, None)
        new_password = schemas[UserCreate.__name__]["properties"]["password"]
        new_password["minLength"] = settings.password_min_length
        if not settings.enable_token_endpoint:  # then there is no flow to offer
            schemes: Json = document["components"]["securitySchemes"]
            schemes |= {name: {"type": "http", "scheme": "bearer"} for name in schemes}
    return document


def problem_schemas() -> Json:
    _, definitions = models_json_schema(
        [(ProblemDetails, "serialization"), (ValidationProblem, "serialization")],
        ref_template=SCHEMA,
    )
    schemas: Json = definitions["$defs"]
    return schemas


def operations(document: Json) -> list[Json]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def use_docstring(operation: Json) -> None:
    """Its first sentence is the summary, where FastAPI would put the name of the function."""
    first, _, rest = operation["description"].partition("\n\n")
    sentence, stop, more = first.partition(". ")
    operation["summary"] = sentence.removesuffix(".")
    operation["description"] = "\n\n".join(filter(None, (more if stop else "", rest))) or first


def correct_responses(responses: Json) -> None:
    """Only a failed validation lists `errors`; other refusals may share its status."""
    for status, response in list(responses.items()):
        content = response.get("content", {})
        if NEVER_SENT[0] in str(content.get("application/json", {}).get("schema")):
            del responses[status]
        elif problem := content.get("application/problem+json"):
            models = {schema_of(reason): None for reason in problem["examples"]}
            references = [{"$ref": SCHEMA.format(model=model)} for model in models]
            problem["schema"] = {"anyOf": references} if len(references) > 1 else references[0]


def schema_of(reason: str) -> str:
    model = ValidationProblem if reason == Reason.VALIDATION_FAILED else ProblemDetails
    return model.__name__
